import numpy as np
import pytest

from cream.algorithms.groups import (
    among_copies,
    chunks,
    equal_sizes,
    group_rows,
    pad,
    pad_counts,
    pad_flags,
)
from cream.errors import DataError


def test_rows_are_padded_and_duplicates_are_counted_at_their_first_copy():
    """Prompt 0 holds hashes 7 5 7 7, prompt 1 is empty, prompt 2 holds 7: another group's 7."""
    groups = group_rows(np.array([0, 4, 4, 5]), np.array([7, 5, 7, 7, 7]))

    np.testing.assert_array_equal(groups.rows, [[0, 1, 2, 3], [-1] * 4, [4, -1, -1, -1]])
    np.testing.assert_array_equal(groups.multiplicity, [[3, 1, 0, 0], [0] * 4, [1, 0, 0, 0]])
    assert groups.present.sum() == 5
    assert groups.multiplicity.sum() == 5
    np.testing.assert_array_equal(groups.distinct[0], [True, True, False, False])


def test_columns_land_in_the_cells_of_their_rows():
    groups = group_rows(np.array([0, 1, 3]), np.array([1, 2, 3]))

    np.testing.assert_array_equal(pad(np.array([1.0, 2, 3]), groups), [[1, np.nan], [2, 3]])
    np.testing.assert_array_equal(pad_counts(np.array([4, 5, 6]), groups), [[4, 0], [5, 6]])
    flags = pad_flags(np.array([True, False, True]), groups)
    np.testing.assert_array_equal(flags, [[True, False], [False, True]])


def test_a_flag_of_one_copy_is_a_flag_of_all_in_its_group_only():
    """Prompt 0 holds hashes 7 5 7 with the last 7 flagged; the 7 of prompt 1 is another one.

    Hash 0 is also what padding holds.
    """
    groups = group_rows(np.array([0, 3, 5]), np.array([7, 5, 7, 7, 0]))
    spread = among_copies(np.array([False, False, True, False, False]), groups)

    np.testing.assert_array_equal(spread, [[True, False, True], [False] * 3])
    flagged = among_copies(np.array([False, False, False, False, True]), groups)
    np.testing.assert_array_equal(flagged, [[False] * 3, [False, True, False]])


@pytest.mark.parametrize("offsets", [[], [0, 2], [1, 3], [0, 2, 1, 3]])
def test_damaged_offsets_are_refused(offsets):
    with pytest.raises(DataError, match="group offsets must rise from 0 to 3"):
        group_rows(np.array(offsets, dtype=np.int64), np.array([1, 2, 3]))


def test_chunks_cover_every_prompt_once_even_if_one_exceeds_the_limit():
    for num_prompts, cells in [(0, 10), (5, 1 << 30), (1000, 64 * 64)]:
        covered = [i for part in chunks(num_prompts, cells) for i in range(num_prompts)[part]]
        assert covered == list(range(num_prompts))


def test_buckets_hold_each_prompt_with_two_members_once_and_name_its_members():
    rng = np.random.default_rng(0)
    counted = rng.random((3000, 40)) < rng.random((3000, 1))
    seen = {}
    for prompts, members in equal_sizes(counted):
        seen.update({p: m.tolist() for p, m in zip(prompts.tolist(), members, strict=True)})

    expected = {p: np.flatnonzero(row).tolist() for p, row in enumerate(counted) if row.sum() > 1}
    assert seen == expected
