import numpy as np
import pytest
import torch
from signed_trajectories import FIVE, trajectory

from cream.algorithms.action_advantages import (
    NO_BASELINE,
    action_rewards,
    bonuses,
    context_baseline,
    contexts,
)
from cream.algorithms.advantages import leave_one_out
from cream.algorithms.policy_gradient import clipped_surrogate, product_ratio
from cream.algorithms.trajectories import Action

PLAIN = {"max_rounds": None, "unparsed_reads_incorrect": False, "last_was_cut": False}


def rewards_of(signs):
    return action_rewards(trajectory(signs), **PLAIN)


def advantages(rewards, groups, over, *, own=False):
    """Per trajectory: (advantage, level) of its actions."""
    flat = np.array([r for row in rewards for r in row])
    found = context_baseline(flat, contexts(rewards, groups, over), leave_one_out=not own)
    cuts = np.cumsum([len(row) for row in rewards])[:-1]
    return (np.split(flat - found.value, cuts), np.split(found.level, cuts))


REWARDS = [rewards_of(s) for s in FIVE]
PROMPTS = ["a", "a", "b", "b", "b"]


def test_rewards_are_those_of_answers_and_verdicts():
    assert REWARDS[3] == (1.0, -1.0, -1.0, 1.0)
    assert REWARDS[4] == (-1.0, 1.0, -1.0, 1.0, 1.0, 1.0)


def test_advantages_over_the_mean_of_a_context_by_hand():
    """b(none) = -.2, b(-) = 1/3, b(+) = 0, b(-,+) = 0, b of deeper ones is their own reward."""
    found, level = advantages(REWARDS, PROMPTS, "context", own=True)
    expected = [
        (-0.8, 2 / 3, 1, 0),
        (1.2, 1),
        (-0.8, -4 / 3),
        (1.2, -1, 0, 0),
        (-0.8, 2 / 3, -1, 0, 0, 0),
    ]
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)
    assert all((row == 0).all() for row in level)


def test_leave_one_out_backs_off_to_position_then_kind_by_hand():
    """A lone context is compared with its position, a lone position with its kind."""
    found, level = advantages(REWARDS, PROMPTS, "context")
    expected = [
        (-1, 1, 2, 0),
        (1.5, 2),
        (-1, -2),
        (1.5, -2, -1, 0),
        (-1, 1, -2, 0, 1.25, 0.5),
    ]
    levels = [(0, 0, 0, 1), (0, 0), (0, 0), (0, 0, 1, 1), (0, 0, 0, 1, 2, 2)]
    for got, want in zip(found, expected, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-12)
    assert [tuple(row) for row in level] == levels


def test_what_is_alone_at_every_level_has_no_baseline_and_is_told():
    """One trajectory of two actions: nothing else is a solution, or a check."""
    found, level = advantages([(1.0, -1.0)], ["a"], "context")
    assert found[0].tolist() == [1, -1]
    assert level[0].tolist() == [NO_BASELINE, NO_BASELINE]


def test_advantages_sum_to_zero_per_context_and_the_two_means_differ_by_a_factor():
    rewards = [(1.0, 1.0), (1.0, -1.0), (-1.0, 1.0), (1.0, 1.0)]
    flat = np.array(rewards).ravel()
    levels = contexts(rewards, ["a"] * 4, "context")
    own = flat - context_baseline(flat, levels, leave_one_out=False).value
    loo = flat - context_baseline(flat, levels, leave_one_out=True).value
    for key in set(levels[0]):
        here = np.array([k == key for k in levels[0]])
        n = here.sum()
        assert own[here].sum() == pytest.approx(0)
        if n > 1:
            np.testing.assert_allclose(loo[here], own[here] * n / (n - 1))


def test_with_first_actions_only_it_is_rloo_pooled_over_prompts():
    """And by prompt with ``loo``."""
    rewards = [(1.0,), (-1.0,), (-1.0,), (1.0,)]
    flat = np.array([r for (r,) in rewards])
    found, _ = advantages(rewards, ["a", "a", "b", "b"], "context")
    pooled = leave_one_out(flat[None], np.ones((1, 4), dtype=bool))
    np.testing.assert_allclose(np.concatenate(found), flat - pooled[0])
    found, _ = advantages(rewards, ["a", "a", "b", "b"], "loo")
    alone = leave_one_out(flat.reshape(2, 2), np.ones((2, 2), dtype=bool))
    np.testing.assert_allclose(np.concatenate(found), flat - alone.ravel())


def test_the_position_baseline_looks_at_no_rewards_before():
    """Position 2 (checks): + + - - +; of the second check's others 3 - 1... by hand: mean of
    (+, -, -, +) = 0 for a +."""
    found, level = advantages(REWARDS, PROMPTS, "position")
    assert found[0][1] == pytest.approx(1.0)
    assert level[4].tolist() == [0, 0, 0, 0, 1, 1]


def test_an_unknown_reward_joins_no_mean():
    rewards = np.array([1.0, np.nan, -1.0])
    found = context_baseline(rewards, [["x", "x", "x"]], leave_one_out=True)
    assert found.value.tolist() == [-1, 0, 1]
    assert found.level.tolist() == [0, NO_BASELINE, 0]


def test_a_constant_added_changes_no_advantage_and_a_sign_turns_all():
    levels = contexts(REWARDS, PROMPTS, "position")
    flat = np.array([r for row in REWARDS for r in row])
    base = flat - context_baseline(flat, levels, leave_one_out=True).value
    moved = flat + 7 - context_baseline(flat + 7, levels, leave_one_out=True).value
    turned = -flat - context_baseline(-flat, levels, leave_one_out=True).value
    np.testing.assert_allclose(moved, base)
    np.testing.assert_allclose(turned, -base)


@pytest.mark.parametrize(
    ("signs", "options", "expected"),
    [
        ("++++", {}, (1, 1, -1, -1)),  # a confirmed answer repeated does not pay
        ("-+-+++", {"max_rounds": 2}, (-1, 1, -1, 1, -1, -1)),
        ("-+++", {"last_was_cut": True}, (-1, 1, 1, -1)),
        ("+", {"last_was_cut": True}, (-1,)),
    ],
)
def test_what_breaks_the_rule_is_wrong(signs, options, expected):
    assert action_rewards(trajectory(signs), **PLAIN | options) == expected


def test_a_check_without_a_verdict():
    """-1 of whatever it judges; or read as "incorrect", true of a wrong solution alone."""
    unread = Action("verify", 1, 2, "missing", None, None, False)
    for sign, read in (("+", -1.0), ("-", 1.0)):
        actions = [*trajectory(sign), unread]
        assert action_rewards(actions, **PLAIN)[1] == -1
        assert action_rewards(actions, **PLAIN | {"unparsed_reads_incorrect": True})[1] == read


def test_without_an_answer_there_is_no_reward():
    unknown = [
        Action("solve", 0, 1, "ok", "7", None, None),
        Action("verify", 1, 2, "ok", None, True, None),
    ]
    assert np.isnan(action_rewards(unknown, **PLAIN)).all()


def test_bonuses_by_hand():
    """y1 = wrong, check, right, check: the retry changed, the last check judges a right one."""
    assert bonuses(trajectory("-+++"), 2.0) == (1, 1, 2, 2)
    assert bonuses(trajectory("+--+"), 2.0) == (1, 2, 2, 1)
    assert bonuses(trajectory("-+-+++"), 2.0) == (1, 1, 1, 1, 2, 2)


def test_process_rewards_teach_a_table_to_confirm_right_answers_and_reject_wrong_ones():
    """A policy of three numbers: p, b = P(says correct | right), c = P(says correct | wrong). The
    Monte Carlo gradient of the clipped surrogate raises p and b and lowers c."""
    draw = np.random.default_rng(3)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    trajectories, chosen = [], []
    for _ in range(2000):
        actions, picks = [], []
        for round_ in range(3):
            right = bool(draw.random() < 0.5)
            says = bool(draw.random() < 0.5)
            place = 2 * round_
            actions.append(Action("solve", place, place + 1, "ok", "7", None, right))
            actions.append(Action("verify", place + 1, place + 2, "ok", None, says, says == right))
            picks += [(0, right), (1 if right else 2, says)]
            if says:
                break
        trajectories.append(actions)
        chosen.append(picks)
    rewards = [action_rewards(actions, **PLAIN) for actions in trajectories]
    found, _ = advantages(rewards, ["a"] * len(rewards), "context")
    loss = torch.zeros((), dtype=torch.float64)
    for picks, advantage in zip(chosen, found, strict=True):
        index = torch.tensor([which for which, _ in picks])
        sign = torch.tensor([1.0 if yes else -1.0 for _, yes in picks], dtype=torch.float64)
        logps = torch.nn.functional.logsigmoid(sign * logits[index])[:, None]
        ratio = product_ratio(logps, logps.detach(), torch.ones_like(logps, dtype=torch.bool))
        per_action = clipped_surrogate(ratio, torch.tensor(advantage), clip=0.2)
        loss = loss + per_action.mean() / len(chosen)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[0] < -0.05
    assert gradient[1] < -0.05
    assert gradient[2] > 0.05  # c falls
