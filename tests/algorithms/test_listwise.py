"""Worked values: sections A, B and C of the derivation in docs/concepts/listwise.md."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cream.algorithms.listwise import (
    ViewOptions,
    always,
    better_pairs,
    fitted_to_point_scale,
    identifier_shifts,
    if_better,
    list_mle,
    list_net,
    moved_to_point_scale,
    pair_losses,
    partition,
    pooled_kl,
    ranknet,
    score_variance,
    views_loss,
    weighted_ranknet,
)

A_SCORES = torch.tensor([2.0, 0.5, 1.0], dtype=torch.float64)
A_GRADES = torch.tensor([2.0, 1.0, 0.0], dtype=torch.float64)
B_LIST = torch.tensor([1.0, -1.0, 1.4, -1.4], dtype=torch.float64)
B_POINT = torch.tensor([2.4, 0.6, 0.2, -2.0], dtype=torch.float64)
B_WINDOWS = torch.tensor([0, 0, 1, 1])


def value(loss, scores, grades):
    found = loss(scores, grades)
    assert found is not None
    return found.item()


def kl(list_scores, point_scores, temperature=1.0):
    return float(pooled_kl(list_scores, point_scores, temperature))


def test_ranknet_of_three_candidates_by_hand():
    """s = (2, .5, 1), a > b > c: sp(-1.5) + sp(-1) + sp(.5) = .201413 + .313262 + .974077."""
    better, worse = better_pairs(A_GRADES, torch.zeros(3, dtype=torch.long))

    losses = pair_losses(A_SCORES, better, worse)
    assert float(losses.sum()) == pytest.approx(1.488752, abs=1e-6)
    assert value(ranknet, A_SCORES, A_GRADES) == pytest.approx(0.496251, abs=1e-6)
    two = value(ranknet, A_SCORES[:2], A_GRADES[:2])
    assert two == pytest.approx(0.201413, abs=1e-6)


def test_weights_by_rank_are_normalised():
    """1/3, 1/4 and 1/5 give .340269; their sum is 47/60, so scale does not hang on the window."""
    found = value(weighted_ranknet, A_SCORES, A_GRADES)

    assert found * 47 / 60 == pytest.approx(0.340269, abs=1e-6)


def test_list_mle_and_list_net_by_hand():
    """Each item against those below it: two items have some, so the sum 1.438446 is halved."""
    assert 2 * value(list_mle, A_SCORES, A_GRADES) == pytest.approx(1.438446, abs=1e-6)
    assert value(list_net, A_SCORES, A_GRADES) == pytest.approx(0.921492, abs=1e-6)


def test_gradient_of_ranknet_sums_to_zero():
    scores = A_SCORES.clone().requires_grad_()
    loss = ranknet(scores, A_GRADES)
    assert loss is not None
    loss.backward()

    assert scores.grad is not None
    assert scores.grad.tolist() == pytest.approx([-0.150456, -0.146678, 0.297134], abs=1e-6)
    assert float(scores.grad.sum()) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("kind", [ranknet, weighted_ranknet, list_mle, list_net])
def test_a_loss_within_a_window_does_not_see_what_is_added_to_all_of_it(kind):
    moved = value(kind, A_SCORES + 3.7, A_GRADES)

    assert moved == pytest.approx(value(kind, A_SCORES, A_GRADES), abs=1e-12)


@pytest.mark.parametrize("kind", [ranknet, weighted_ranknet, list_mle, list_net])
def test_a_window_of_equal_grades_has_no_loss(kind):
    assert kind(A_SCORES, torch.ones(3, dtype=torch.float64)) is None


@pytest.mark.parametrize("kind", [ranknet, weighted_ranknet, list_mle, list_net])
def test_raising_a_label_raises_its_score(kind):
    """Sign: the gradient on the item whose grade is raised from lowest to highest is negative."""
    scores = A_SCORES.clone().requires_grad_()
    kind(scores, torch.tensor([2.0, 1.0, 3.0], dtype=torch.float64)).backward()

    assert scores.grad is not None
    assert scores.grad[2] < 0


@pytest.mark.parametrize("kind", [ranknet, weighted_ranknet, list_mle])
def test_losses_of_order_look_at_the_order_of_grades_only(kind):
    scaled = value(kind, A_SCORES, 10 * A_GRADES - 3)

    assert scaled == pytest.approx(value(kind, A_SCORES, A_GRADES), abs=1e-12)


def test_list_mle_with_ties_does_not_hang_on_the_order_of_the_list():
    grades = torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    swapped = torch.tensor([1, 0, 2])

    expected = value(list_mle, A_SCORES, grades)
    assert value(list_mle, A_SCORES[swapped], grades[swapped]) == pytest.approx(expected, abs=1e-12)
    by_hand = (math.log1p(math.exp(1.0 - 2.0)) + math.log1p(math.exp(1.0 - 0.5))) / 2
    assert expected == pytest.approx(by_hand, abs=1e-12)


def test_pooled_kl_and_its_gradient_by_hand():
    scores = B_LIST.clone().requires_grad_()
    point = B_POINT.clone().requires_grad_()
    loss = pooled_kl(scores, point)
    loss.backward()

    assert loss.item() == pytest.approx(0.529463, abs=1e-6)
    assert scores.grad is not None
    expected = [-0.408235, -0.078505, 0.462891, 0.023849]
    assert scores.grad.tolist() == pytest.approx(expected, abs=1e-6)
    assert point.grad is None, "the point view would be pulled to the list view"


def test_a_step_against_that_gradient_moves_list_scores_to_point_scores():
    scores = B_LIST.clone().requires_grad_()
    pooled_kl(scores, B_POINT).backward()
    assert scores.grad is not None
    stepped = B_LIST - 0.1 * scores.grad

    assert kl(stepped, B_POINT) < kl(B_LIST, B_POINT)


def test_kl_within_windows_cannot_move_a_window():
    """The implementation error: both windows' own KLs stay while the pooled one falls."""
    moved = B_LIST + torch.tensor([1.5, 1.5, -0.9, -0.9], dtype=torch.float64)

    for scores in (B_LIST, moved):
        assert kl(scores[:2], B_POINT[:2]) == pytest.approx(0.002321, abs=1e-6)
        assert kl(scores[2:], B_POINT[2:]) == pytest.approx(0.013800, abs=1e-6)
    assert kl(moved, B_POINT) == pytest.approx(0.004887, abs=1e-6)


def test_offsets_are_those_of_the_point_view():
    fitted = [
        moved_to_point_scale(B_LIST[w].numpy(), B_POINT[w].numpy())
        for w in (slice(0, 2), slice(2, 4))
    ]

    assert np.concatenate(fitted).tolist() == pytest.approx([2.5, 0.5, 0.5, -2.3])


def test_at_a_high_temperature_the_kl_is_half_the_variance():
    assert kl(B_LIST, B_POINT, 1000.0) == pytest.approx(0.745143, abs=1e-6)
    assert float(score_variance(B_LIST, B_POINT)) == pytest.approx(0.745, abs=1e-12)


def test_list_order_is_wrong_across_windows_and_the_point_order_right():
    assert (-B_LIST).argsort().tolist() == [2, 0, 1, 3]
    assert (-B_POINT).argsort().tolist() == [0, 1, 2, 3]


def test_an_affine_fit_has_no_negative_slope_and_keeps_the_mean():
    scores, point = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, 5.0])

    assert fitted_to_point_scale(scores, point).tolist() == pytest.approx([1, 3, 5])
    inverted = fitted_to_point_scale(scores, point[::-1].copy())
    assert inverted.tolist() == pytest.approx([3, 3, 3]), "an inverted view says nothing"
    two = fitted_to_point_scale(scores[:2], point[:2])
    assert two.tolist() == pytest.approx([1.5, 2.5]), "two members give no slope"


def test_rotations_take_out_the_bias_of_identifiers_and_reversing_does_not():
    """b = (0, -.9, .5), u = (1, .2, .6): identity (1, -.7, 1.1) has the wrong winner."""
    bias, true = np.array([0.0, -0.9, 0.5]), np.array([1.0, 0.2, 0.6])

    def seen(shift):
        return true + bias[(np.arange(3) + shift) % 3]

    assert seen(0).tolist() == pytest.approx([1, -0.7, 1.1])
    rotated = np.mean([seen(s) for s in identifier_shifts(3, 3)], axis=0)
    assert (rotated - bias.mean()).tolist() == pytest.approx(true.tolist())
    reversed_too = (seen(0) + true + bias[::-1]) / 2
    assert reversed_too.tolist() == pytest.approx([1.25, -0.7, 0.85])
    assert (reversed_too - bias.mean()).tolist() == pytest.approx(
        [1.3833, -0.5667, 0.9833], abs=1e-4
    )


@pytest.mark.parametrize("size", range(1, 12))
@pytest.mark.parametrize("rotations", range(1, 12))
def test_rotations_are_different_and_at_most_as_many_as_members(size, rotations):
    shifts = identifier_shifts(size, rotations)

    assert len(set(shifts)) == len(shifts) == min(size, rotations)
    assert all(0 <= shift < size for shift in shifts)


@pytest.mark.parametrize("width", range(2, 27))
def test_a_partition_has_every_item_once_in_windows_of_nearly_one_size(width):
    for total in range(1, 26):
        windows = partition([f"d{k}" for k in range(total)], width)
        sizes = [len(window) for window in windows]

        assert sorted(i for w in windows for i in w) == sorted(f"d{k}" for k in range(total))
        assert max(sizes) - min(sizes) <= 1
        assert min(sizes) >= min(2, total)
        assert max(sizes) <= (width if width > 2 or total % 2 == 0 else 3)
        if width > 2:
            assert len(windows) == math.ceil(total / width)


def test_no_candidates_make_no_window_and_a_width_of_one_is_refused():
    assert partition([], 4) == []
    with pytest.raises(ValueError, match="at least 2"):
        partition(["a", "b"], 1)


def test_equal_labels_weigh_the_same_in_every_window_of_a_batch():
    """FIRST numbers ranks through the whole batch, so that the second row weighs less."""
    grades = torch.tensor([2.0, 1.0, 0.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    scores = torch.cat([A_SCORES, A_SCORES]).requires_grad_()
    groups = torch.tensor([0, 0, 0, 1, 1, 1])
    options = ViewOptions(list_loss=weighted_ranknet, calibration=None, point_weight=0.0)
    views_loss(scores, scores.detach(), grades, groups, groups, options).loss.backward()

    assert scores.grad is not None
    assert torch.equal(scores.grad[:3], scores.grad[3:])


def test_the_whole_loss_is_its_parts():
    grades = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    query = torch.zeros(4, dtype=torch.long)
    found = views_loss(
        B_LIST, B_POINT, grades, query, B_WINDOWS, ViewOptions(point_weight=0.5, trust=always)
    )
    sp = torch.nn.functional.softplus
    list_view = (sp(B_LIST[1] - B_LIST[0]) + sp(B_LIST[3] - B_LIST[2])) / 2
    pairs = [(i, j) for i in range(4) for j in range(i + 1, 4)]
    point = torch.stack([sp(B_POINT[j] - B_POINT[i]) for i, j in pairs]).mean()

    assert float(found.list_view) == pytest.approx(float(list_view))
    assert float(found.point_view) == pytest.approx(float(point))
    assert float(found.calibration) == pytest.approx(0.529463, abs=1e-6)
    assert float(found.loss) == pytest.approx(float(list_view + 0.5 * point) + 0.529463, abs=1e-6)
    assert (found.windows, found.pairs, found.calibration_weight) == (2, 6, 1.0)


def test_the_point_view_teaches_only_where_it_loses_less():
    grades = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    query = torch.zeros(4, dtype=torch.long)

    def weight(list_scores, point_scores, trust=if_better):
        options = ViewOptions(trust=trust, calibration_weight=2.0)
        given = (list_scores, point_scores, grades, query, B_WINDOWS, options)
        return views_loss(*given).calibration_weight

    assert weight(B_LIST, B_POINT) == 2.0, "the point view has all pairs right"
    assert weight(B_POINT, B_LIST) == 0.0
    assert weight(B_POINT, B_POINT) == 0.0, "no better is not better"
    assert weight(B_POINT, B_LIST, always) == 2.0


def test_without_a_pair_there_is_nothing_to_learn_and_it_says_so():
    scores = B_LIST.clone().requires_grad_()
    same = torch.ones(4, dtype=torch.float64)
    found = views_loss(
        scores, B_POINT, same, torch.zeros(4, dtype=torch.long), B_WINDOWS, ViewOptions()
    )
    found.loss.backward()

    assert (found.windows, found.pairs, found.calibration_weight) == (0, 0, 0.0)
    assert found.loss.item() == 0.0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_pairs_of_different_queries_are_none_and_a_query_can_be_a_pool_of_its_own():
    grades = torch.tensor([3.0, 2.0, 1.0, 0.0], dtype=torch.float64)
    found = views_loss(
        B_LIST,
        B_POINT,
        grades,
        B_WINDOWS,
        B_WINDOWS,
        ViewOptions(pool_by_query=True, trust=always),
    )

    assert found.pairs == 2
    assert float(found.calibration) == pytest.approx((0.002321 + 0.013800) / 2, abs=1e-6)


def test_one_window_is_listwise_ranknet_and_scores_of_two_are_bradley_terry():
    """lambda = 0, w = N: no window to compare with. Two candidates: -log sigmoid of the gap."""
    query = torch.zeros(3, dtype=torch.long)
    options = ViewOptions(calibration=None, point_weight=0.0)
    whole = views_loss(A_SCORES, A_SCORES, A_GRADES, query, query, options)

    assert float(whole.loss) == pytest.approx(0.496251, abs=1e-6)
    two = value(ranknet, A_SCORES[:2], A_GRADES[:2])
    assert two == pytest.approx(-math.log(1 / (1 + math.exp(-1.5))), abs=1e-12)


@given(
    st.lists(st.floats(-5, 5), min_size=3, max_size=8),
    st.floats(-5, 5),
)
def test_what_the_pooled_kl_sees_of_an_offset_is_not_zero(values, offset):
    """Moving one of two windows changes the pooled KL unless the offset is none."""
    point = torch.tensor(values, dtype=torch.float64)
    moved = point.clone()
    moved[0] += offset

    found = kl(moved, point)
    assert found >= -1e-12
    if abs(offset) > 0.01:
        assert found > 0
