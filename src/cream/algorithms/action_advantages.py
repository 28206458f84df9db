"""Rewards of a trajectory's actions, and what is taken off them: process-level policy gradient.

Every action is rewarded by itself, a solution for its answer and a check for its verdict, and a
baseline is the mean reward of other actions that began where it did. No randomness, no model.

Source: S2R, arXiv 2502.12853. Its paper takes the mean over actions with the same rewards before
them; its code a running mean over all of training, for 164 listed contexts, from ten on.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64

from cream.algorithms.trajectories import Action, stop

RIGHT, WRONG = 1.0, -1.0
"""Rewards of an action, and of an outcome."""
NO_BASELINE = -1
"""Level of an action that no other one is compared with: nothing is taken off its reward."""


def action_rewards(
    actions: Sequence[Action],
    *,
    max_rounds: int | None,
    unparsed_reads_incorrect: bool,
    last_was_cut: bool,
) -> tuple[float, ...]:
    """+1 or -1 of every action of a trajectory; NaN where the prompt has no answer.

    What stands after a check that said "correct", or in rounds beyond the last that is allowed,
    breaks the rule of trajectories and gets -1: else repeating a confirmed answer would pay.

    Args:
        actions: In order.
        max_rounds: Solutions allowed; None: any number.
        unparsed_reads_incorrect: Whether a check without one verdict counts as "incorrect"; else
            it is wrong, whatever it judges.
        last_was_cut: Whether the last action is wrong for having been cut off.
    """
    until = stop(actions)
    if max_rounds is not None:
        until = min(until, 2 * max_rounds)
    found, judged = [], None
    for place, action in enumerate(actions):
        right = action.correct
        if action.kind == "solve":
            judged = right
        elif action.verdict is None and unparsed_reads_incorrect:
            right = None if judged is None else not judged
        cut = last_was_cut and place == len(actions) - 1
        if right is None:
            found.append(np.nan)
        else:
            found.append(RIGHT if right and place < until and not cut else WRONG)
    return tuple(found)


BaselineOver = Literal["loo", "context", "position"]


def contexts(
    rewards: Sequence[Sequence[float]], groups: Sequence[Hashable], over: BaselineOver
) -> list[list[Hashable]]:
    """What the actions of all trajectories have in common with others, closest first.

    ``context``: the rewards of the actions before it, then its position, then its kind.
    ``position``: position, then kind. ``loo``: position, then kind, among the samples of its own
    prompt only. Kinds alternate, so that the parity of the position is the kind.

    Args:
        rewards: Of each trajectory.
        groups: Prompt of each trajectory.
        over: Which of them.

    Returns:
        A list of levels, each with a key per action, trajectory after trajectory.
    """
    places = [(i, t) for i, row in enumerate(rewards) for t in range(len(row))]
    before: list[Hashable] = [("context", tuple(rewards[i][:t])) for i, t in places]
    owner = groups if over == "loo" else [None] * len(groups)
    position: list[Hashable] = [("position", owner[i], t) for i, t in places]
    kind: list[Hashable] = [("kind", owner[i], t % 2) for i, t in places]
    return [before, position, kind] if over == "context" else [position, kind]


@dataclass(frozen=True, slots=True)
class Baselines:
    """What is taken off the reward of each action."""

    value: Float64[np.ndarray, " action"]
    level: Int64[np.ndarray, " action"]
    """Which of the levels it comes from, 0 the closest; `NO_BASELINE` if none."""


def context_baseline(
    rewards: Float64[np.ndarray, " action"],
    levels: Sequence[Sequence[Hashable]],
    *,
    leave_one_out: bool,
) -> Baselines:
    """Mean reward of the actions that an action has most in common with.

    Leaving itself out, an action that is alone at a level is compared at the next, and with nothing
    after the last; holding itself, it never is, and one that is alone has no advantage.

    Args:
        rewards: Of all actions; NaN joins no mean, and has no baseline.
        levels: Keys per level and action, the closest level first.
        leave_one_out: Whether the mean is of the others only.
    """
    value = np.zeros(len(rewards))
    found = np.full(len(rewards), NO_BASELINE, dtype=np.int64)
    known = ~np.isnan(rewards)
    for number, keys in enumerate(levels):
        numbered: dict[Hashable, int] = {}
        code = np.array([numbered.setdefault(key, len(numbered)) for key in keys], dtype=np.int64)
        total = np.bincount(code, np.where(known, rewards, 0.0), len(numbered))[code]
        size = np.bincount(code, known, len(numbered))[code]
        if leave_one_out:
            total, size = total - np.where(known, rewards, 0.0), size - known
        use = known & (found == NO_BASELINE) & (size > 0)
        value[use] = total[use] / size[use]
        found[use] = number
    return Baselines(value, found)


def bonuses(actions: Sequence[Action], factor: float) -> tuple[float, ...]:
    """Factor on the advantage of every action of a trajectory (the reference's is 2).

    It is on checks of right solutions, and on solutions that differ in being right from the one
    before them; on others 1.
    """
    found, judged = [], None
    for action in actions:
        if action.kind == "verify":
            found.append(factor if judged else 1.0)
            continue
        changed = judged is not None and action.correct != judged
        found.append(factor if changed else 1.0)
        judged = action.correct
    return tuple(found)
