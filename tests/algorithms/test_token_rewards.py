import numpy as np
import pytest
import torch

from cream.algorithms.objective import SequenceInputs
from cream.algorithms.policy_gradient import clipped_surrogate, surrogate, token_ratio
from cream.algorithms.token_rewards import (
    Side,
    aligned_leave_one_out,
    bt_edit,
    bt_mean,
    centred,
    gae,
    graded,
    less_divergence,
    token_ce,
    whitened,
)

EDITED, ORIGINAL = (0.2, 0.5, 1.0, 0.1), (0.2, 0.5, -0.6, 0.1)
LONGER, SHORTER = (0.2, 0.5, 0.9, 0.3, 0.1), (0.2, 0.5, 0.3, 0.1)
REWARDS = np.array([-0.01, 0.0, -1.02, 0.01])
"""Scores (0, 0, -1, 0) less .1 times log-ratios (.1, 0, .2, -.1)."""


def row(values):
    return torch.tensor([values], dtype=torch.float64, requires_grad=True)


def grad(values):
    assert values.grad is not None
    return values.grad


def side(values, *touched, there=None):
    """Rewards of one text, the places an edit touched, and those that are no padding."""
    rewards = values if isinstance(values, torch.Tensor) else row(values)
    width = rewards.shape[1]
    return Side(
        rewards, marks(range(width), *(there or range(width))), marks(range(width), *touched)
    )


def marks(values, *places):
    return torch.tensor([[k in places for k in range(len(values))]])


def test_bt_mean_by_hand():
    """Means .45 and .05: -log sigmoid(.4) = .513015; each token's gradient is sigmoid(-.4) / 4."""
    edited, original = row(EDITED), row(ORIGINAL)
    loss = bt_mean(side(edited), side(original))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.513015, abs=1e-6)
    np.testing.assert_allclose(grad(edited), [[-0.100328] * 4], atol=1e-6)
    np.testing.assert_allclose(grad(original), [[0.100328] * 4], atol=1e-6)


def test_the_level_of_rewards_is_not_learnt_by_a_mean_but_pays_a_sum():
    """A shift of 1 leaves the loss alone and raises the original's return from .2 to 4.2."""
    losses = [bt_mean(side(row(EDITED) + c), side(row(ORIGINAL) + c)).item() for c in (0.0, 1.0)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    assert sum(ORIGINAL) == pytest.approx(0.2)
    assert centred(np.array(ORIGINAL) + 1, 0.0, None).sum() == pytest.approx(4.2)
    np.testing.assert_allclose(centred(np.array(ORIGINAL) + 1, 1.0, None), ORIGINAL)
    np.testing.assert_allclose(centred(np.array(ORIGINAL), 0.0, 0.5), (0.2, 0.5, -0.5, 0.1))


def test_bt_edit_by_hand():
    """1 / 4 - (-.6) / 4 = .4: the same loss, and a gradient on the third token alone."""
    edited, original = row(EDITED), row(ORIGINAL)
    loss = bt_edit(side(edited, 2), side(original, 2))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.513015, abs=1e-6)
    np.testing.assert_allclose(grad(edited), [[0, 0, -0.100328, 0]], atol=1e-6)
    np.testing.assert_allclose(grad(original), [[0, 0, 0.100328, 0]], atol=1e-6)


def test_an_insertion_leaves_a_residue_on_shared_text_under_bt_mean():
    """Means .4 and .275; a shared token is pulled by sigmoid(-.125) (1/4 - 1/5) in all."""
    edited, original = row(LONGER), row(SHORTER)
    loss = bt_mean(side(edited), side(original))
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.632599, abs=1e-6)
    np.testing.assert_allclose(grad(edited)[0, 0] + grad(original)[0, 0], 0.023440, atol=1e-6)


def test_a_sum_would_reward_length_where_the_mean_does_not():
    """Sums 2.0 and 1.1: -log sigmoid(.9) = .341154; a shift of 3 a token adds 3 to the gap."""
    for shift, expected in ((0.0, 0.341154), (3.0, 0.020040)):
        gap = sum(LONGER) + 5 * shift - sum(SHORTER) - 4 * shift
        assert -np.log(1 / (1 + np.exp(-gap))) == pytest.approx(expected, abs=1e-6)
    means = [bt_mean(side(row(LONGER) + c), side(row(SHORTER) + c)).item() for c in (0.0, 3.0)]
    assert means[0] == pytest.approx(means[1], abs=1e-12)


def test_swapping_the_sides_negates_the_gradient_at_rest():
    """At equal rewards sigma is one half on both sides, so only the sign is left."""
    found = []
    for turned in (False, True):
        a, b = row((0.0,) * 4), row((0.0,) * 4)
        bt_mean(*map(side, (b, a) if turned else (a, b))).sum().backward()
        found.append(grad(a))
    torch.testing.assert_close(found[0], -found[1])


def test_one_token_edit_of_equal_length_is_bradley_terry_of_that_token_pair():
    """T times the touched reward undoes the mean: -log sigmoid(r - s) of the two tokens."""
    loss = bt_edit(side(row(EDITED) * 4, 2), side(row(ORIGINAL) * 4, 2))
    assert loss.item() == pytest.approx(np.log1p(np.exp(-1.6)), abs=1e-12)


@pytest.mark.parametrize("loss", [bt_mean, bt_edit, token_ce])
def test_padding_changes_no_loss_and_gets_no_gradient(loss):
    wide = row((*EDITED, 9.0, -9.0))
    padded = loss(side(wide, 2, there=range(4)), side(ORIGINAL, 2))
    torch.testing.assert_close(padded, loss(side(EDITED, 2), side(ORIGINAL, 2)))
    padded.sum().backward()
    assert grad(wide)[0, 4:].tolist() == [0, 0]
    assert grad(wide)[0, 2] < 0


def test_token_ce_is_balanced_between_touched_and_kept():
    """Logit 2 on one new token of 20, its twin replaced at -2, 0 elsewhere: touched log(1 + e^-2) =
    .126928, kept log 2 = .693147; half of each is .410038, whatever the length."""
    for length in (4, 20):
        edited, original = row((2.0,) + (0.0,) * (length - 1)), row((-2.0,) + (0.0,) * (length - 1))
        loss = token_ce(side(edited, 0), side(original, 0))
        assert loss.item() == pytest.approx(0.410038, abs=1e-6)


def test_token_ce_draws_kept_tokens_to_one_half_and_touched_ones_apart():
    edited, original = row(EDITED), row(ORIGINAL)
    token_ce(side(edited, 2), side(original, 2)).sum().backward()
    assert grad(edited)[0, 2] < 0 < grad(original)[0, 2]
    assert (grad(edited)[0, [0, 1, 3]] > 0).all(), "positive logits go down to 0"


def test_a_pair_without_touched_tokens_on_either_side_is_undecided_about_all():
    zeros = side((0.0,) * 4)
    loss = token_ce(zeros, zeros)
    assert loss.item() == pytest.approx(np.log(2) / 2)


def test_graded_is_one_softmax():
    """p = .9: 2 p - 1 = .8; a second softmax would say .380."""
    assert graded(torch.tensor(np.log(9.0))).item() == pytest.approx(0.8)


def test_the_divergence_is_paid_token_by_token_and_keeps_its_sign():
    found = less_divergence(
        np.array([0.0, 0, -1, 0]), np.array([0.1, 0, 0.2, -0.1]), np.zeros(4), beta=0.1
    )
    np.testing.assert_allclose(found, REWARDS, atol=1e-12)


@pytest.mark.parametrize(
    ("values", "decay", "expected"),
    [
        ((0, 0, 0, 0), 1.0, (-1.02, -1.01, -1.01, 0.01)),
        ((0, 0, 0, 0), 0.95, (-0.921976, -0.959975, -1.0105, 0.01)),
        ((-0.5, -0.5, -0.5, 0), 1.0, (-0.52, -0.51, -0.51, 0.01)),
        ((-0.5, -0.5, -0.5, 0), 0.95, (-0.470726, -0.484975, -0.5105, 0.01)),
        ((-0.5, -0.5, -0.5, 0), 0.0, (-0.01, 0, -0.52, 0.01)),
    ],
)
def test_generalised_advantages_by_hand(values, decay, expected):
    found = gae(REWARDS, np.array(values, float), discount=1.0, decay=decay)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_generalised_advantages_of_other_placements():
    """The score one late: with V and lambda 0 it stands there; at the end and lambda 1 the reward
    to go is it on every token, less what divergence is still to pay."""
    late = np.array([-0.01, 0, -0.02, -0.99])
    np.testing.assert_allclose(gae(late, np.zeros(4), discount=1.0, decay=0.0), late)
    end = gae(late, np.zeros(4), discount=1.0, decay=1.0)
    np.testing.assert_allclose(end, (-1.02, -1.01, -1.01, -0.99))


def test_without_discounting_to_others_a_token_answers_for_itself_alone():
    np.testing.assert_allclose(gae(REWARDS, np.zeros(4), discount=0.0, decay=1.0), REWARDS)


def test_aligned_baseline_by_hand():
    returns = [np.array(r, float) for r in ((-1, -1, -1, 0), (0, 0, 0), (-1, 0, 0, 0, 0))]
    found = aligned_leave_one_out(returns)
    expected = [(-0.5, -1, -1, 0), (1, 0.5, 0.5), (-0.5, 0.5, 0.5, 0, 0)]
    for own, hand in zip(found, expected, strict=True):
        np.testing.assert_allclose(own, hand, atol=1e-12)


def test_aligned_baseline_sees_nothing_of_the_own_sample():
    others = [np.array([1.0, 2.0]), np.array([3.0])]
    one, two = (aligned_leave_one_out([np.array(own), *others])[0] for own in ([0.0, 0], [5.0, 7]))
    np.testing.assert_allclose(np.array([0.0, 0]) - one, np.array([5.0, 7]) - two)


def test_whitening_counts_no_padding():
    """Mean 1/6, deviation .8498; with five padded zeros: mean 1/16, deviation .5266."""
    (found,) = whitened([np.array([1.0, -1.0, 0.5])])
    np.testing.assert_allclose(found, (0.981, -1.373, 0.392), atol=1e-3)
    padded = np.array([1.0, -1, 0.5, 0, 0, 0, 0, 0])
    spoilt = (padded - padded.mean()) / padded.std()
    np.testing.assert_allclose(spoilt[:3], (1.780, -2.018, 0.831), atol=1e-3)
    equal = [np.zeros(2), np.zeros(1)]
    assert whitened(equal)[0].tolist() == [0, 0]


def test_clipping_per_token_by_hand():
    """A = -1 at ratio 1.5 costs 1.5 and pulls; A = +1 is held at -1.2 and does not."""
    for advantage, value, pulls in ((-1.0, 1.5, True), (1.0, -1.2, False)):
        ratio = torch.tensor([1.5], requires_grad=True)
        found = clipped_surrogate(ratio, torch.tensor([advantage]), clip=0.2)
        found.sum().backward()
        assert found.item() == pytest.approx(value)
        assert bool(grad(ratio).abs() > 0) is pulls


@pytest.mark.parametrize("blamed", range(3))
def test_a_score_of_one_token_moves_the_sampled_logit_of_its_own_state_alone(blamed):
    """A tabular policy, one state per place: catches a reward that stands one token late.

    The gradient of -A log pi(y_k) in state k is A (p - onehot), 0 in every other state.
    """
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(blamed))
    logits.requires_grad_()
    sampled = torch.tensor([2, 0, 3])
    logps = logits.log_softmax(-1).gather(-1, sampled[:, None]).T
    there = torch.ones_like(logps, dtype=torch.bool)
    scores = np.zeros(3)
    scores[blamed] = -1.0
    advantages = gae(scores, np.zeros(3), discount=0.0, decay=1.0)
    sequence = SequenceInputs(there, logps, torch.ones(1, dtype=torch.bool))
    ratio = token_ratio(sequence.token_logps, logps.detach(), sequence.mask)
    surrogate(ratio, torch.from_numpy(advantages)[None].float()).sum().backward()
    pulls = [bool(state.abs().max() > 0) for state in grad(logits)]
    assert pulls == [k == blamed for k in range(3)]
    own = grad(logits)[blamed]
    assert own[sampled[blamed]] > 0, "one step downhill lowers the sampled logit"
    others = [own[k] for k in range(4) if k != sampled[blamed]]
    assert all(g < 0 for g in others)
