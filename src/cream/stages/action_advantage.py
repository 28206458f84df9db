"""Actions to advantages: what each solution and each check is worth against others like it.

The process level of `cream.stages.advantage`. All actions of an iteration are compared, whoever
sampled beside them, so that a prompt with one sample counts too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cream.algorithms.action_advantages import NO_BASELINE, bonuses, context_baseline, contexts
from cream.algorithms.trajectories import Action
from cream.recipe.trajectory import ProcessCredit
from cream.records import ActionSummary
from cream.stages.advantage import (
    NO_VARIANCE,
    TRAINED,
    TRUNCATED,
    UNSCORED,
    Advantages,
    WeighedAction,
)
from cream.types import Tally

LEVELS: tuple[str, ...] = ("context", "position", "kind")
"""What actions can have in common, closest first; other baselines than ``context`` begin at the
second."""
NOTHING = "nothing"
LEFT_OUT = "left_out"
"""Of actions: their sample is not trained on."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """A sampled completion with its actions."""

    actions: tuple[Action, ...]
    rewards: tuple[float, ...]
    """NaN where the prompt has no answer."""
    log_ratios: tuple[float, ...] | None = None
    """Per token log pi - log ref, where actions pay a divergence."""


def weigh_actions(
    found: Advantages, trajectories: Mapping[str, Trajectory], credit: ProcessCredit
) -> Advantages:
    """Advantages of the actions of an iteration's samples.

    Args:
        found: What is known of whole samples: which of them have a reward, and are not left out.
        trajectories: By completion id.
        credit: Baseline, bonus and divergence.

    Returns:
        The same with the actions of every sample that is trained on. The advantage of a sample is
        then the mean of those of its actions.
    """
    layout = found.layout
    usable = layout.usable & ~np.isnan(found.reward)
    cells = np.argwhere(usable)
    ids = layout.matrix.completion_ids[layout.groups.rows[usable]].tolist()
    prompts = layout.matrix.prompt_ids[cells[:, 0]].tolist()
    known = [trajectories[key] for key in ids]
    weighed = _weighed([str(p) for p in prompts], known, credit)
    pulls = {p for p, own in zip(prompts, weighed, strict=True) if any(a.advantage for a in own)}
    advantage = np.full(found.reward.shape, np.nan)
    outcome = found.sample_outcome.copy()
    actions: dict[str, tuple[WeighedAction, ...]] = {}
    for (g, member), key, prompt, own in zip(cells.tolist(), ids, prompts, weighed, strict=True):
        outcome[g, member] = TRAINED if prompt in pulls else NO_VARIANCE
        if prompt in pulls:
            advantage[g, member] = np.mean([action.advantage for action in own])
            actions[key] = own
    return replace(
        found,
        advantage=advantage,
        outcome=_outcomes(outcome),
        sample_outcome=outcome,
        actions=actions,
    )


def _weighed(
    prompts: Sequence[str], trajectories: Sequence[Trajectory], credit: ProcessCredit
) -> list[tuple[WeighedAction, ...]]:
    rewards = [own.rewards for own in trajectories]
    flat = np.array([reward for row in rewards for reward in row], dtype=np.float64)
    levels = []
    if credit.baseline != "none":
        levels = contexts(rewards, prompts, credit.baseline)
    names = LEVELS[len(LEVELS) - len(levels) :]
    base = context_baseline(flat, levels, leave_one_out=not credit.including_own)
    off = iter(zip(base.value.tolist(), base.level.tolist(), strict=True))
    found = []
    for own in trajectories:
        rows = zip(
            own.actions,
            own.rewards,
            bonuses(own.actions, credit.bonus),
            _divergences(own),
            strict=True,
        )
        row = []
        for action, reward, factor, kl in rows:
            value, level = next(off)
            row.append(
                WeighedAction(
                    kind=action.kind,
                    opened=action.opened,
                    end=action.end,
                    reward=reward,
                    advantage=factor * (reward - value) - credit.beta * kl,
                    compared_with=NOTHING if level == NO_BASELINE else names[level],
                )
            )
        found.append(tuple(row))
    return found


def _divergences(own: Trajectory) -> list[float]:
    """Per action the sum of log pi - log ref over its tokens, nats."""
    if own.log_ratios is None:
        return [0.0] * len(own.actions)
    ends = [action.end for action in own.actions]
    return [sum(own.log_ratios[a:b]) for a, b in zip([0, *ends], ends, strict=False)]


def _outcomes(of_samples: np.ndarray) -> np.ndarray:
    """Per prompt, the first of these that a sample of it has."""
    found = np.full(len(of_samples), UNSCORED, dtype=object)
    for name in (TRUNCATED, NO_VARIANCE, TRAINED):
        found[(of_samples == name).any(1)] = name
    return found


def action_summary(found: Advantages, total: int) -> ActionSummary:
    """What the actions of an iteration are worth.

    Args:
        found: With the actions that are trained on.
        total: Actions of all samples.
    """
    actions = [action for own in (found.actions or {}).values() for action in own]
    parts: dict[str, int] = dict.fromkeys((*LEVELS, NOTHING, LEFT_OUT), 0)
    for action in actions:
        parts[action.compared_with] += 1
    parts[LEFT_OUT] = total - len(actions)
    by_kind = {kind: [a for a in actions if a.kind == kind] for kind in ("solve", "verify")}
    return ActionSummary(
        tally=Tally(total, parts),
        mean_reward={k: _mean([a.reward for a in own]) for k, own in by_kind.items()},
        mean_abs_advantage={
            k: _mean([abs(a.advantage) for a in own]) for k, own in by_kind.items()
        },
    )


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
