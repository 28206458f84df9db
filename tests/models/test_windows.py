import dataclasses

import pytest
import torch

from cream.errors import ModelError
from cream.models.windows import Block, Window, lay_out_windows, longest_extent, window_states
from cream.testing import CountingModel, tiny_model

CPU = torch.device("cpu")
PREFIX, TAIL = (5, 9, 30, 41), (77, 78, 79)
TEXTS = ((10, 11, 12), (20, 21), (30, 31, 32, 33, 34))
END, IDENTIFIERS = 2, (65, 66, 67, 68)


def block(text, identifier):
    return Block((*text, END, identifier), len(text))


def window(texts=TEXTS, identifiers=IDENTIFIERS, reach=12):
    blocks = tuple(block(t, i) for t, i in zip(texts, identifiers, strict=False))
    return Window(PREFIX, blocks, TAIL, identifiers[: len(texts)], reach)


def states(model, *windows):
    with torch.no_grad():
        return window_states(model, lay_out_windows(windows, CPU))


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma", "gpt2"])
def test_the_state_at_end_is_that_of_the_candidate_alone(architecture):
    model = tiny_model(architecture=architecture)
    ends, _ = states(model, window())

    for text, end in zip(TEXTS, ends, strict=True):
        alone = model.base_model(torch.tensor([[*PREFIX, *text, END]])).last_hidden_state[0, -1]
        assert torch.allclose(end, alone, atol=5e-5)


def test_moving_blocks_with_their_identifiers_moves_their_states():
    model = tiny_model()
    ends, readouts = states(model, window())
    order = [2, 0, 1]
    moved = window([TEXTS[k] for k in order], tuple(IDENTIFIERS[k] for k in order))
    moved_ends, moved_readouts = states(model, moved)

    assert torch.allclose(moved_ends, ends[order], atol=5e-5)
    assert torch.allclose(moved_readouts, readouts[order], atol=5e-5)


def test_another_identifier_changes_the_list_view_and_not_the_point_view():
    model = tiny_model()
    ends, readouts = states(model, window())
    other_ends, other_readouts = states(model, window(identifiers=(66, 67, 65)))

    assert torch.equal(other_ends, ends)
    assert not torch.allclose(other_readouts, readouts, atol=1e-2)


def test_the_list_view_sees_the_other_candidates_and_the_point_view_does_not():
    model = tiny_model()
    ends, readouts = states(model, window())
    other = (TEXTS[0], TEXTS[1], (50, 51, 52))
    other_ends, other_readouts = states(model, window(other))

    assert torch.allclose(other_ends[:2], ends[:2], atol=5e-5)
    assert not torch.allclose(other_readouts[0], readouts[0], atol=1e-2)


def test_places_kept_for_a_candidate_hide_the_length_of_its_neighbours():
    """The tail stands behind the longest candidate there may be, not the longest there is."""
    laid = lay_out_windows([window(), window(TEXTS[:2])], CPU)
    tails = [laid.positions[r, laid.token_ids[r] == TAIL[0]].tolist() for r in range(2)]

    assert tails == [[4 + 12], [4 + 12]]
    read = laid.readouts.tolist()
    assert {laid.positions[r, c].item() for r, c in read} == {4 + 12 + len(TAIL)}


def test_a_window_in_company_is_what_it_is_alone():
    model = tiny_model()
    alone = states(model, window(TEXTS[:2]))
    ends, readouts = states(model, window(), window(TEXTS[:2]))

    assert torch.allclose(ends[3:], alone[0], atol=5e-5)
    assert torch.allclose(readouts[3:], alone[1], atol=5e-5)


def test_without_readouts_the_list_view_is_read_at_the_end_of_the_tail():
    model = tiny_model()
    bare = dataclasses.replace(window(), readouts=())
    laid = lay_out_windows([bare], CPU)
    ends, readouts = states(model, bare)
    whole_ends, _ = states(model, window())

    assert laid.token_ids[0, laid.readouts[0, 1]] == TAIL[-1]
    assert len(readouts) == 1
    assert torch.allclose(ends, whole_ends, atol=5e-5)


def test_who_sees_whom_by_hand():
    """prefix a b | c END i | d END j | tail t | i j: one row of the mask per token."""
    small = Window((1, 2), (block((3,), 65), block((4,), 66)), (9,), (65, 66), 4)
    seen = lay_out_windows([small], CPU).mask.explicit
    assert seen is not None
    rows = ["".join("x" if s else "." for s in row) for row in seen[0, 0].tolist()]

    assert rows == [
        "x..........",
        "xx.........",
        "xxx........",
        "xxxx.......",
        "xxxxx......",
        "xx...x.....",
        "xx...xx....",
        "xx...xxx...",
        "xxxxxxxxx..",
        "xxxxxxxxxx.",
        "xxxxxxxxx.x",
    ]


def test_a_candidate_longer_than_its_place_is_refused():
    with pytest.raises(ValueError, match="6 positions"):
        lay_out_windows([window(reach=6)], CPU)


def test_a_model_says_how_far_a_window_may_reach_or_that_it_cannot_read_one():
    assert longest_extent(tiny_model()) == 512
    with pytest.raises(ModelError, match="rerank"):
        longest_extent(CountingModel())
