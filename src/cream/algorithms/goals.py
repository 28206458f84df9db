"""Goal-conditioned preferences: which of two answers a goal asks for, and the loss over both goals.

Source: Zhang et al., arXiv 2410.08067 (reward-augmented data). Every pair is used under a goal text
that asks for the chosen answer's score, in its order, and under one that asks for the rejected
answer's, *in the reversed order*. A policy that does not read the goal is then pulled to
indifference; what is learnt is learnt through the goal. The goal reward is
``R(x, y, g) = -(g - r(x, y))^2``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from cream.algorithms.objective import Needs, Objective, ObjectiveInputs, PerExample, reference_of
from cream.algorithms.objectives import PairLogps, scaled_margin
from cream.algorithms.preference import PAIR
from cream.types import Goal, Message

LOWEST, HIGHEST = 1, 10
"""The scale on which goals are told."""
LOW_GOAL = {"chosen": "low_goal_chosen", "rejected": "low_goal_rejected"}
"""Roles under the low goal: preferred there is the answer that the pair rejects."""
GOOD_REJECTED = "rejected_is_good"
"""Column: 1 if the rejected answer's score is above the median of the iteration's pairs, else 0."""


def goal_reward_gap(
    chosen: Float[np.ndarray, ...], rejected: Float[np.ndarray, ...], goal: float
) -> Float[np.ndarray, ...]:
    """R(chosen) - R(rejected) = ``(r_w - r_l) (2 g - r_w - r_l)``, scores and goal on one scale.

    Positive, so that the chosen answer is preferred, iff g is nearer to r_w than to r_l.
    """
    return (chosen - rejected) * (2 * goal - chosen - rejected)


def goal_preference(
    chosen: Float[np.ndarray, ...],
    rejected: Float[np.ndarray, ...],
    goal: float,
    *,
    temperature: float,
) -> Float[np.ndarray, ...]:
    """P(chosen preferred | goal) = sigmoid(gap / T), a C for CREAM's loss; T -> 0 is the paper."""
    gap = np.asarray(goal_reward_gap(chosen, rejected, goal), dtype=np.float64)
    return np.asarray(torch.sigmoid(torch.as_tensor(gap / temperature)).numpy())


def quantile_goals(scores: Float[np.ndarray, " score"]) -> Float[np.ndarray, " score"]:
    """Scores by their rank: ``1 + 9 (rank - 1/2) / n``, equal ones with their mean rank."""
    values = np.asarray(scores, dtype=np.float64)
    _, places, equal = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(equal) - (equal - 1) / 2)[places]
    return LOWEST + (HIGHEST - LOWEST) * (ranks - 0.5) / len(values)


def range_goals(
    scores: Float[np.ndarray, " score"], *, lowest: float, highest: float
) -> Float[np.ndarray, " score"]:
    """Scores of a known range, drawn linearly to 1 to 10.

    Raises:
        ValueError: A score is out of the range.
    """
    wrong = scores[(scores < lowest) | (scores > highest)]
    if len(wrong):
        raise ValueError(
            f"{len(wrong)} scores are out of the range {lowest:g} to {highest:g}, "
            f"{wrong[0]:g} among them"
        )
    return LOWEST + (HIGHEST - LOWEST) * (scores - lowest) / (highest - lowest)


def with_goal(messages: Sequence[Message], goal: Goal) -> tuple[Message, ...]:
    """A conversation that is told the goal.

    At the place ``system`` a system message that is there already is extended, not replaced; at
    ``user`` the text and a blank line stand before the first user message.
    """
    first = next((i for i, message in enumerate(messages) if message.role == goal.place), None)
    if first is None:
        return (Message(goal.place, goal.text), *messages)
    said = messages[first].content
    texts = (said, goal.text) if goal.place == "system" else (goal.text, said)
    told = Message(goal.place, "\n\n".join(texts))
    return (*messages[:first], told, *messages[first + 1 :])


def goal_conditioned(base: Objective, *, beta: float) -> Objective:
    """The mean of a preference's loss under the high goal and under the low one, order reversed.

    With x_h and x_l the margins of the chosen over the rejected answer under the two goals and
    softplus(-x) as the base this is ``1/2 [softplus(-x_h) + softplus(x_l)]``. An example without
    sequences under the low goal has the base's loss. C, where the base reads it, is that of the
    pair in both rows.

    Args:
        base: Any objective over pairs, terms included.
        beta: Scale of the reported margins.
    """

    def low_row(inputs: ObjectiveInputs) -> ObjectiveInputs:
        sequences = {role: inputs[LOW_GOAL[role]] for role in PAIR}
        return replace(inputs, sequences=sequences)

    def loss(inputs: ObjectiveInputs) -> PerExample:
        both = inputs[LOW_GOAL["chosen"]].present
        high = base.loss(inputs)
        if not both.any():
            return high
        low = base.loss(low_row(inputs.examples(both)))
        return torch.where(both, high / 2, high).masked_scatter(both, high[both] / 2 + low / 2)

    def metrics(inputs: ObjectiveInputs) -> Mapping[str, PerExample]:
        both = inputs[LOW_GOAL["chosen"]].present & inputs["rejected"].present
        x_high = _margin(inputs, "chosen", "rejected", beta=beta)
        x_low = _margin(inputs, LOW_GOAL["rejected"], LOW_GOAL["chosen"], beta=beta)
        good = inputs.columns[GOOD_REJECTED] > 0
        fall = (inputs["rejected"].logps - reference_of(inputs["rejected"])).detach()
        absent = torch.full_like(fall, math.nan)
        told = {
            "goal/margin_high": x_high,
            "goal/margin_low": x_low,
            "goal/sensitivity": (x_high - x_low) / 2,
            "goal/shift": (x_high + x_low) / 2,
        }
        return {
            **base.metrics(inputs),
            **{name: torch.where(both, value, absent) for name, value in told.items()},
            "goal/logp_rejected_good": torch.where(good, fall, absent),
        }

    return replace(
        base,
        name=f"goal-conditioned {base.name}",
        fingerprint=f"both goals of {base.fingerprint}",
        needs=_needs(base.needs),
        loss=loss,
        metrics=metrics,
    )


def _margin(inputs: ObjectiveInputs, chosen: str, rejected: str, *, beta: float) -> Tensor:
    sides = inputs[chosen], inputs[rejected]
    policy = PairLogps(*(side.logps.detach() for side in sides))
    return scaled_margin(policy, PairLogps(*map(reference_of, sides)), beta=beta)


def _needs(base: Needs) -> Needs:
    """What a preference needs, of the high row and of the low one, which an example may lack."""

    def low(roles: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(LOW_GOAL[role] for role in roles)

    return Needs(
        (*base.scored, *low(base.scored)),
        base.read,
        (*base.optional, *low(PAIR)),
        (*base.references, *low(base.references)),
        (*base.columns, GOOD_REJECTED),
        base.token_columns,
        base.start_logps,
        base.hidden,
    )
