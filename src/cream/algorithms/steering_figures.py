"""How well a steered reward reads its users: against others' contexts, turned ones, and none.

Every user's completions are halved; choices within one half may be context, those within the other
are targets. The same users stand in every row of one context size, so that rows can be compared.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from cream.algorithms.statistics import Absent, Interval, bootstrap_mean
from cream.algorithms.steering import NO_CHOICES, Choices, conflicting, halves, hits

Rewards = Callable[[Choices], Float64[np.ndarray, " completion"]]
"""Reward of every completion, by number, for the user of a context."""
Keep = Callable[[Choices], Bool[np.ndarray, " choice"]]
"""Which targets count."""

OWN, OTHER, FLIPPED, NONE, POOLED = "own", "other", "flipped", "none", "pooled"
ARMS = (OWN, OTHER, FLIPPED, NONE, POOLED)
"""What a reward is given of a user: own choices, as many of another user, own ones turned round,
none; and the reward that reads no context."""


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """Accuracy on targets by arm, at one size of the context."""

    size: int
    accuracy: Mapping[str, Interval | Absent]
    """By arm; items are users."""
    gain: Mapping[str, Interval | Absent]
    """Own minus the arm, over the same users."""
    steering_index: Interval | Absent
    """Accuracy on targets on which two users chose oppositely, minus 1/2; own context."""
    targets: int


@dataclass(frozen=True, slots=True)
class _User:
    pool: Choices
    targets: Choices


def steering_figures(
    users: Sequence[Choices],
    rewards: Rewards,
    pooled: Float64[np.ndarray, " completion"],
    *,
    sizes: Sequence[int],
    seed: int,
    keep: Keep | None = None,
) -> list[ArmFigures]:
    """Accuracy of every arm at every size of the context.

    Args:
        users: Choices of users, none of whom the reward was trained on.
        rewards: The steered reward.
        pooled: The reward without context.
        sizes: Sizes of the context. Users with fewer choices are left out at that size, as are
            those for whom no other user has as many without a completion of their targets.
        seed: Of halves, order of choices, partners and intervals.
        keep: Which targets count; all by default.
    """
    cut = [_cut(user, np.random.default_rng([seed, k]), keep) for k, user in enumerate(users)]
    whole = [user for user in cut if user is not None and len(user.targets)]
    disputed = conflicting([user.targets for user in whole])
    partner = np.random.default_rng([seed, len(users)]).permutation(len(whole))
    bare = rewards(NO_CHOICES)
    return [_at_size(whole, partner, rewards, bare, pooled, disputed, n, seed) for n in sizes]


def _cut(user: Choices, draw: np.random.Generator, keep: Keep | None) -> _User | None:
    first, second = halves(user, draw)
    targets = second if keep is None else second.take(np.flatnonzero(keep(second)))
    return _User(first.take(draw.permutation(len(first))), targets)


def _at_size(
    users: Sequence[_User],
    partner: np.ndarray,
    rewards: Rewards,
    bare: Float64[np.ndarray, " completion"],
    pooled: Float64[np.ndarray, " completion"],
    disputed: set[tuple[int, int]],
    size: int,
    seed: int,
) -> ArmFigures:
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    index: list[float] = []
    targets = 0
    for k, user in enumerate(users):
        own = user.pool.take(range(min(size, len(user.pool))))
        other = _context_of_another(users, partner, k, size)
        if len(own) < size or other is None:
            continue
        contexts = {OWN: own, OTHER: other, FLIPPED: own.flipped()}
        values = {arm: rewards(given) if size else bare for arm, given in contexts.items()}
        values |= {NONE: bare, POOLED: pooled}
        for arm, value in values.items():
            found[arm].append(float(_hits(value, user.targets).mean()))
        at = [
            (min(a, b), max(a, b)) in disputed
            for a, b in zip(
                user.targets.winners.tolist(), user.targets.losers.tolist(), strict=True
            )
        ]
        if any(at):
            index.append(float(_hits(values[OWN], user.targets)[at].mean()) - 0.5)
        targets += len(user.targets)
    arms = {arm: np.array(values) for arm, values in found.items()}

    def interval(values: Float64[np.ndarray, " user"]) -> Interval | Absent:
        return bootstrap_mean(values, np.random.default_rng([seed, size]))

    return ArmFigures(
        size,
        {arm: interval(values) for arm, values in arms.items()},
        {arm: interval(arms[OWN] - values) for arm, values in arms.items() if arm != OWN},
        interval(np.array(index)),
        targets,
    )


def _hits(
    reward: Float64[np.ndarray, " completion"], targets: Choices
) -> Float64[np.ndarray, " choice"]:
    return hits(reward[targets.winners] - reward[targets.losers])


def _context_of_another(
    users: Sequence[_User], partner: np.ndarray, user: int, size: int
) -> Choices | None:
    """As many choices of the next user in a fixed order who has them, apart from the targets."""
    place = int(np.flatnonzero(partner == user)[0])
    for step in range(1, len(users)):
        other = users[int(partner[(place + step) % len(users)])]
        apart = other.pool.apart_from(users[user].targets)
        if len(apart) >= size:
            return apart.take(range(size))
    return None
