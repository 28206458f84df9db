import pytest
import torch
from training_items import PAIR_NEEDS, make_pairs

from cream.errors import DataError
from cream.training.batches import (
    Row,
    lay_out,
    micro_batches,
    steps_of,
)
from cream.training.examples import BatchLayout


def test_a_shared_row_restarts_positions_and_names_its_predictors():
    """Prompt 7 8 9, chosen 10 11, rejected 12 13 14; a shorter row is padded at its end."""
    batch = lay_out([Row((7, 8, 9), ((10, 11), (12, 13, 14))), Row((5,), ((6,),))])
    assert batch.input_ids[0].tolist() == [7, 8, 9, 10, 11, 12, 13, 14]
    assert batch.position_ids[0].tolist() == [0, 1, 2, 3, 4, 3, 4, 5]
    assert batch.segments.tolist() == [[0, 0, 0, 1, 1, 2, 2, 2], [0, 1, -1, -1, -1, -1, -1, -1]]
    assert batch.target_positions.tolist() == [2, 3, 2, 5, 6, 0]
    assert batch.targets.tolist() == [10, 11, 12, 13, 14, 6]
    assert batch.lengths.tolist() == [2, 3, 1]


def test_the_rejected_completion_sees_the_prompt_and_itself_but_not_the_chosen():
    batch = lay_out([Row((7, 8), ((10, 11), (12, 13)))])
    assert batch.row_mask.allowed()[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 1, 1],
    ]


def test_tokens_equal_to_the_pad_id_are_targets_like_any_other():
    """Padding is filled with 0; a completion of zeros must keep all its targets."""
    batch = lay_out([Row((0, 0), ((0, 0, 0),)), Row((1,), ((0,) * 6,))])
    assert batch.lengths.tolist() == [3, 6]
    assert batch.targets.tolist() == [0] * 9


def test_table_puts_each_token_under_its_completion():
    batch = lay_out([Row((7,), ((1, 2), (3, 4, 5)))])
    table = batch.table(torch.arange(1.0, 6.0))
    assert table.tolist() == [[1, 2, 0], [3, 4, 5]]
    assert batch.mask.tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize("shared", [True, False])
def test_both_layouts_find_chosen_and_rejected_again(shared):
    pairs = make_pairs(5)
    batch = BatchLayout(PAIR_NEEDS, shared).batch(pairs)
    ids = batch.tokens.table(batch.tokens.targets.float())
    for i, pair in enumerate(pairs):
        for role, place in batch.places.items():
            found = ids[place[i]][batch.tokens.mask[place[i]]].int().tolist()
            assert tuple(found) == pair.sequences[role].token_ids


def test_a_loss_mask_picks_targets_and_keeps_their_places():
    """Of 10 11 12 only 11 and 12 are scored: predicted at positions 1 and 2 of 7 10 11 12."""
    batch = lay_out([Row((7,), ((10, 11, 12), (13,)), ((False, True, True), None))])
    assert batch.targets.tolist() == [11, 12, 13]
    assert batch.target_positions.tolist() == [1, 2, 0]
    assert batch.table(torch.tensor([1.0, 2.0, 3.0])).tolist() == [[0, 1, 2], [3, 0, 0]]
    assert batch.lengths.tolist() == [3, 1]


def test_micro_batches_hold_every_item_once_within_the_budget():
    lengths = [5, 40, 7, 6, 100, 8]
    batches = micro_batches([(1, n) for n in lengths], token_budget=24)
    assert sorted(i for batch in batches for i in batch) == [0, 1, 2, 3, 4, 5]
    assert batches == [[4], [1], [5, 2, 3], [0]]


def test_further_rows_count_towards_the_budget_at_the_width_of_the_batch():
    """Three rows of 4 beside one of 8 fill 4 * 8 tokens, not 3 * 4 + 8."""
    shapes = [(3, 4), (1, 8)]
    assert micro_batches(shapes, token_budget=31) == [[1], [0]]
    assert micro_batches(shapes, token_budget=32) == [[1, 0]]


def test_every_epoch_visits_every_item_once_in_another_order():
    steps = steps_of(list("abcdefghij"), batch_size=4, epochs=2, seed=3)
    assert [len(step) for step in steps] == [4, 4, 2, 4, 4, 2]
    first, second = [i for s in steps[:3] for i in s], [i for s in steps[3:] for i in s]
    assert sorted(first) == sorted(second) == list(range(10))
    assert first != second


def test_the_order_follows_ids_not_positions():
    ids = list("abcdefghij")
    forward = steps_of(ids, batch_size=3, epochs=1, seed=3)
    backward = steps_of(ids[::-1], batch_size=3, epochs=1, seed=3)
    names = [[ids[i] for i in step] for step in forward]
    assert names == [[ids[::-1][i] for i in step] for step in backward]
    assert forward != steps_of(ids, batch_size=3, epochs=1, seed=4)


def test_two_items_of_one_id_are_refused_by_name():
    with pytest.raises(DataError, match="'b' occurs more than once"):
        steps_of(["a", "b", "b"], batch_size=2, epochs=1, seed=0)


def test_items_of_one_epoch_are_seen_in_no_other():
    """Of three items one is seen in the second epoch only: three steps of two, two and one."""
    steps = steps_of(["a", "b", "c"], batch_size=2, epochs=2, seed=0, only_in={"c": 1})

    assert [len(step) for step in steps] == [2, 2, 1]
    assert set(steps[0]) == {0, 1}
    assert sorted(i for step in steps[1:] for i in step) == [0, 1, 2]


def test_naming_no_epoch_changes_no_order():
    ids = list("abcdef")

    assert steps_of(ids, batch_size=4, epochs=2, seed=1, only_in={}) == steps_of(
        ids, batch_size=4, epochs=2, seed=1
    )
