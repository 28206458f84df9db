"""Taking turns: every contestant does the same work, A B A B ..., after a warm-up.

A machine's speed drifts (clock, temperature, neighbours), so contestants are compared only within
one run and within one round. The spread of a ratio is the smallest and largest ratio of a round:
with the few rounds that a benchmark has, that says more than a resampled interval would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

SETTLE_SECONDS = 0.3
"""Pause before a turn. Threads of the one before spin for up to 0.2 s when they have no work."""


@dataclass(frozen=True, slots=True)
class Contestant:
    """One way to do the work of a case."""

    name: str
    run: Callable[[], float]
    """Does the work once and returns how much it did, in the unit of the case. Must be done with
    it, on every device, when it returns."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one contestant did in one round."""

    work: float
    seconds: float

    @property
    def rate(self) -> float:
        """Work per second."""
        return self.work / self.seconds


@dataclass(frozen=True, slots=True)
class Comparison:
    """Rates of two contestants over the same rounds."""

    ours: float
    """Median rate."""
    theirs: float
    ratio: float
    """Ratio of the medians, ours / theirs: above 1 is faster."""
    low: float
    """Smallest ratio within a round."""
    high: float
    """Largest ratio within a round."""
    num_rounds: int


def take_turns(
    contestants: Sequence[Contestant],
    rounds: int,
    *,
    warm_ups: int = 1,
    clock: Callable[[], float] = time.perf_counter,
    settle_seconds: float = SETTLE_SECONDS,
) -> dict[str, tuple[Turn, ...]]:
    """Let every contestant run once per round, in the same order.

    Args:
        contestants: At least one; names are unique.
        rounds: Rounds that count, >= 1.
        warm_ups: Rounds before those, which do not count.
        clock: Seconds.
        settle_seconds: Pause before each turn.

    Returns:
        The turns by name, one per round.

    Raises:
        ValueError: No round, or two contestants of one name.
    """
    if rounds < 1 or len({c.name for c in contestants}) < len(contestants):
        raise ValueError(f"{rounds} rounds of {[c.name for c in contestants]}")
    turns: dict[str, list[Turn]] = {contestant.name: [] for contestant in contestants}
    for index in range(warm_ups + rounds):
        for contestant in contestants:
            time.sleep(settle_seconds)
            started = clock()
            work = contestant.run()
            seconds = clock() - started
            if index >= warm_ups:
                turns[contestant.name].append(Turn(work, seconds))
    return {name: tuple(done) for name, done in turns.items()}


def compare(ours: Sequence[Turn], theirs: Sequence[Turn]) -> Comparison:
    """Compare two contestants by the medians of their rates."""
    ratios = [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]
    first, second = median(t.rate for t in ours), median(t.rate for t in theirs)
    return Comparison(first, second, first / second, min(ratios), max(ratios), len(ratios))


def median_seconds(turns: Mapping[str, Sequence[Turn]], name: str) -> float:
    """Median duration of a contestant's turns."""
    return median(turn.seconds for turn in turns[name])
