"""Seeds are a function of names and stay what they are for ever."""

import itertools

import pytest

from cream.runs.seeds import derive_seed


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ((0,), 2964727883954193085),
        ((0, "sft"), 2004578398332848458),
        ((17, "sample", 2, "prompt", 3), 8615043007215032063),
    ],
)
def test_golden_values(path: tuple, expected: int):
    """Computed once; a change would silently alter every run."""
    assert derive_seed(*path) == expected


def test_names_are_prefixed_by_their_length_so_that_no_two_paths_read_alike():
    paths = [
        (0, "a", "bc"),
        (0, "ab", "c"),
        (0, "abc"),
        (0, "a", "b", "c"),
        (0, "1:a", "bc"),
        (0, "", "abc"),
        (0, 1, 23),
        (0, 12, 3),
        (1, "23"),
        (12, "3"),
    ]

    assert len({derive_seed(*path) for path in paths}) == len(paths)


def test_a_number_and_its_text_are_the_same_name():
    assert derive_seed(0, "sample", 3) == derive_seed(0, "sample", "3")


def test_seeds_fit_a_signed_64_bit_column_and_do_not_collide():
    seeds = [derive_seed(s, "x", k) for s, k in itertools.product(range(20), range(500))]

    assert len(set(seeds)) == len(seeds)
    assert min(seeds) >= 0
    assert max(seeds) < 2**63
    assert max(seeds) > 2**62  # the upper half is used: no bit is wasted
