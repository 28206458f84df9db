"""Goals: which answer a goal asks for, how scores become goals, and the loss over both goals."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cream.algorithms.goals import (
    GOOD_REJECTED,
    goal_conditioned,
    goal_preference,
    goal_reward_gap,
    quantile_goals,
    range_goals,
    with_goal,
)
from cream.algorithms.objective import ObjectiveInputs, SequenceInputs
from cream.recipe.objectives import ConservativeDpo, ConstantNll, Cream, Dpo, SimPo
from cream.types import Goal, Message


@pytest.mark.parametrize(
    ("chosen", "rejected", "goal", "gap"),
    [
        (9, 8, 9, 1),
        (9, 8, 8, -1),
        (9, 2, 9, 49),
        (9, 2, 2, -49),
        (9, 2, 10, 63),
        (9, 2, 6, 7),
        (9, 2, 5, -7),
        (7, 7, 7, 0),
    ],
)
def test_a_goal_asks_for_the_answer_whose_score_is_nearer(chosen, rejected, goal, gap):
    """-(g - r_w)^2 + (g - r_l)^2, also as (r_w - r_l)(2 g - r_w - r_l)."""
    scores = np.array([float(chosen)]), np.array([float(rejected)])
    assert goal_reward_gap(*scores, float(goal)).tolist() == [gap]
    assert (goal - rejected) ** 2 - (goal - chosen) ** 2 == gap


def test_the_soft_label_of_a_goal_is_one_half_in_the_middle_of_both_scores():
    """sigmoid(7 (2 g - 11) / 20)."""
    want = {2: 0.079439, 5.5: 0.5, 6: 0.586618, 9: 0.920561, 10: 0.958909}
    for goal, probability in want.items():
        found = goal_preference(np.array([9.0]), np.array([2.0]), float(goal), temperature=20.0)
        assert found.tolist() == pytest.approx([probability], abs=1e-6)


def test_quantiles_share_ranks_and_leave_both_ends_open():
    assert quantile_goals(np.array([-3.1, 0.2, 0.2, 5.0])).tolist() == [2.125, 5.5, 5.5, 8.875]


def test_a_known_range_is_drawn_linearly_and_what_is_outside_is_refused():
    assert range_goals(np.array([0.0, 2.5, 5.0]), lowest=0.0, highest=5.0).tolist() == [1, 5.5, 10]
    with pytest.raises(ValueError, match=r"2 scores are out of the range 0 to 5, 5\.5 among them"):
        range_goals(np.array([5.5, 1.0, -1.0]), lowest=0.0, highest=5.0)


def test_a_goal_joins_a_system_message_or_makes_one_or_stands_before_the_question():
    asked, goal = Message("user", "1+1="), Goal("reach 7", "system")
    assert with_goal([asked], goal) == (Message("system", "reach 7"), asked)
    polite = Message("system", "Be polite.")
    assert with_goal([polite, asked], goal) == (Message("system", "Be polite.\n\nreach 7"), asked)
    again = [polite, asked, Message("assistant", "2"), Message("user", "2+2=")]
    told = with_goal(again, Goal("reach 7", "user"))
    assert told == (polite, Message("user", "reach 7\n\n1+1="), *again[2:])


def sequence(policy: float | None, reference: float) -> SequenceInputs:
    there = policy is not None
    return SequenceInputs(
        torch.tensor([[there]]),
        torch.tensor([[policy if there else 0.0]]).requires_grad_(),
        torch.tensor([there]),
        torch.tensor([reference if there else 0.0]),
    )


NONE = None, 0.0


def cells(high_w, high_l, low_w=NONE, low_l=NONE, *, c=1.0, good=0.0) -> ObjectiveInputs:
    """Policy and reference sums of both answers under both goals: ``(policy, reference)``."""
    return ObjectiveInputs(
        {
            "chosen": sequence(*high_w),
            "rejected": sequence(*high_l),
            "low_goal_chosen": sequence(*low_l),  # preferred under the low goal
            "low_goal_rejected": sequence(*low_w),
        },
        {"consistency": torch.tensor([c]), GOOD_REJECTED: torch.tensor([good])},
    )


PLAIN = Dpo(beta=0.1)
BOTH = goal_conditioned(PLAIN.build(), beta=0.1)
WORKED = ((-20.0, -24.0), (-30.0, -28.0), (-25.0, -23.0), (-26.0, -29.0))
"""x_h = 0.1 (4 + 2) = 0.6; x_l = 0.1 (-2 - 3) = -0.5."""


def test_the_worked_four_cells():
    """1/2 [softplus(-0.6) + softplus(-0.5)]: 0.437488 and 0.474077; e = 0.55, m = 0.05."""
    assert BOTH.loss(cells(*WORKED)).item() == pytest.approx(0.455782, abs=1e-6)
    found = {name: value.item() for name, value in BOTH.metrics(cells(*WORKED, good=1.0)).items()}
    assert found["goal/margin_high"] == pytest.approx(0.6, abs=1e-6)
    assert found["goal/margin_low"] == pytest.approx(-0.5, abs=1e-6)
    assert found["goal/sensitivity"] == pytest.approx(0.55, abs=1e-6)
    assert found["goal/shift"] == pytest.approx(0.05, abs=1e-6)
    assert found["goal/logp_rejected_good"] == pytest.approx(-2.0)
    assert found["rewards/margins"] == pytest.approx(0.6, abs=1e-6)


def test_the_order_under_the_low_goal_is_reversed():
    """Not reversed, as the published code has it without system role: 1/2 [0.437488 + 0.974077]."""
    high_w, high_l, low_w, low_l = WORKED
    wrong = cells(high_w, high_l, low_w=low_l, low_l=low_w)
    assert BOTH.loss(wrong).item() == pytest.approx(0.705782, abs=1e-6)


def gradients(inputs: ObjectiveInputs) -> dict[str, float]:
    BOTH.loss(inputs).sum().backward()
    grads = {role: one.token_logps.grad for role, one in inputs.sequences.items()}
    return {role: 0.0 if g is None else float(g.sum()) for role, g in grads.items()}


def test_gradients_of_both_rows():
    """dL/dx_h = -1/2 sigmoid(-x_h), dL/dx_l = 1/2 sigmoid(x_l), times beta on y_w, minus on y_l."""
    found = gradients(cells(*WORKED))
    high, low = -0.5 / (1 + math.exp(0.6)), 0.5 / (1 + math.exp(0.5))
    assert found["chosen"] == pytest.approx(0.1 * high, abs=1e-7)
    assert found["rejected"] == pytest.approx(-0.1 * high, abs=1e-7)
    assert found["low_goal_rejected"] == pytest.approx(0.1 * low, abs=1e-7)
    assert found["low_goal_chosen"] == pytest.approx(-0.1 * low, abs=1e-7)


@pytest.mark.parametrize(
    ("x", "loss", "gradient"), [(0.0, 0.693147, 0.0), (0.5, 0.724077, 0.122459)]
)
def test_a_policy_that_does_not_read_the_goal_is_pulled_to_indifference(x, loss, gradient):
    """1/2 [softplus(-x) + softplus(x)], derivative 1/2 (2 sigmoid(x) - 1), x that of either row."""
    w, rejected = (x / 0.1, 0.0), (0.0, 0.0)
    inputs = cells(w, rejected, w, rejected)
    assert BOTH.loss(inputs).item() == pytest.approx(loss, abs=1e-6)
    found = gradients(inputs)
    assert (found["chosen"] + found["low_goal_rejected"]) / 0.1 == pytest.approx(gradient, abs=1e-6)


def test_the_fixed_point_under_label_smoothing_is_its_logit():
    """logit(0.7) = 0.847298 in the high row, its negative in the low one."""
    smooth = goal_conditioned(ConservativeDpo(beta=0.1, label_smoothing=0.3).build(), beta=0.1)
    x = 0.847298 / 0.1
    inputs = cells((x, 0.0), (0.0, 0.0), (-x, 0.0), (0.0, 0.0))
    smooth.loss(inputs).sum().backward()
    for one in inputs.sequences.values():
        grad = one.token_logps.grad
        assert grad is not None
        assert float(grad.sum()) == pytest.approx(0.0, abs=1e-7)


def test_one_c_acts_in_both_rows_and_below_one_half_reverses_both():
    """CREAM adds (1 - C) x of each row's own order: x_h and -x_l. At C = 0 that is the reverse."""
    cream = goal_conditioned(Cream(beta=0.1).build(), beta=0.1)
    loss = cream.loss(cells(*WORKED, c=0.8)).item()
    assert loss == pytest.approx(0.455782 + 0.2 * (0.6 + 0.5) / 2, abs=1e-6)
    high_w, high_l, low_w, low_l = WORKED
    turned = BOTH.loss(cells(high_l, high_w, low_l, low_w))
    assert cream.loss(cells(*WORKED, c=0.0)).item() == pytest.approx(turned.item(), abs=1e-6)


def test_an_example_that_is_told_no_goal_has_the_plain_loss_and_no_sensitivity():
    inputs = cells(*WORKED[:2])
    assert BOTH.loss(inputs).item() == pytest.approx(0.437488, abs=1e-6)
    assert BOTH.metrics(inputs)["goal/sensitivity"].isnan().all()
    assert BOTH.metrics(inputs)["goal/logp_rejected_good"].isnan().all()  # not a good one


def test_any_loss_of_pairs_and_its_terms_stand_in_both_rows():
    """NLL of the preferred answer of each row: 20 nats of y_w, 26 of y_l, weight 1, mean."""
    with_nll = Dpo(beta=0.1, nll=ConstantNll(kind="constant", weight=1.0)).build()
    loss = goal_conditioned(with_nll, beta=0.1).loss(cells(*WORKED)).item()
    assert loss == pytest.approx(0.455782 + (20 + 26) / 2, abs=1e-5)
    simpo = SimPo(beta=2.0).build()
    high, low = simpo.loss(cells(*WORKED)), simpo.loss(cells(WORKED[3], WORKED[2]))
    found = goal_conditioned(simpo, beta=2.0).loss(cells(*WORKED))
    assert found.item() == pytest.approx((high.item() + low.item()) / 2, abs=1e-6)
