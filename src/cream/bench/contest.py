"""A case: contestants that do the same work, in turns A B A B ..., and the rows that come of it.

A machine's speed drifts (clock, temperature, neighbours), so contestants are compared only within
one run and within one round. The spread of a ratio is the smallest and largest ratio of a round:
with the few rounds that a benchmark has, that says more than a resampled interval would.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Literal

from cream.bench.machine import LoadWatch

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
class ContestTurn:
    """What one contestant did in one round."""

    work: float
    seconds: float

    @property
    def rate(self) -> float:
        """Work per second."""
        return self.work / self.seconds


@dataclass(frozen=True, slots=True)
class Contest:
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
) -> dict[str, tuple[ContestTurn, ...]]:
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
    turns: dict[str, list[ContestTurn]] = {contestant.name: [] for contestant in contestants}
    for index in range(warm_ups + rounds):
        for contestant in contestants:
            time.sleep(settle_seconds)
            started = clock()
            work = contestant.run()
            seconds = clock() - started
            if index >= warm_ups:
                turns[contestant.name].append(ContestTurn(work, seconds))
    return {name: tuple(done) for name, done in turns.items()}


def compare(ours: Sequence[ContestTurn], theirs: Sequence[ContestTurn]) -> Contest:
    """Compare two contestants by the medians of their rates."""
    ratios = [a.rate / b.rate for a, b in zip(ours, theirs, strict=True)]
    first, second = median(t.rate for t in ours), median(t.rate for t in theirs)
    return Contest(first, second, first / second, min(ratios), max(ratios), len(ratios))


@dataclass(frozen=True, slots=True)
class ContestRow:
    """Ours against one baseline, in one case."""

    name: str
    """Part and case, such as ``sampling: 64 x 5``."""
    baseline: str
    unit: str
    better: Literal["higher", "lower"]
    ours: float
    """Median over the rounds."""
    theirs: float
    ratio: float
    """ours / theirs."""
    low: float
    """Smallest ratio of a round."""
    high: float
    n: int
    """Rounds."""
    floor_share: float | None
    """Least possible time over our time; None where no floor is stated for the row."""
    foreign_cores: float | None = None
    """Work of other processes while this was measured, in cores; None if the system tells not."""
    notes: tuple[str, ...] = ()


def row_of(
    name: str,
    baseline: str,
    unit: str,
    found: Contest,
    *,
    floor_share: float | None,
    foreign_cores: float | None,
    notes: tuple[str, ...] = (),
) -> ContestRow:
    """Make a row of rates."""
    return ContestRow(
        name=name,
        baseline=baseline,
        unit=unit,
        better="higher",
        ours=found.ours,
        theirs=found.theirs,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        n=found.num_rounds,
        floor_share=floor_share,
        foreign_cores=foreign_cores,
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class Case:
    """Contestants that have been checked to do the same work; ours is the first."""

    name: str
    unit: str
    contestants: tuple[Contestant, ...]
    least_seconds: float | None
    """Least time for the work by `cream.bench.floors`; None if no floor is stated."""
    notes: tuple[str, ...]


def run_case(
    make: Callable[[], Case], watch: LoadWatch, *, what: str, rounds: int, warm_ups: int = 0
) -> Iterator[ContestRow]:
    """Check the load, make the case, time it, and yield one row per baseline.

    Args:
        make: Makes the case; runs every contestant once to compare their work, which is the first
            warm-up.
        watch: Foreign load is measured before and during the turns.
        what: Name of the case in messages.
        rounds: Rounds that count.
        warm_ups: Further rounds that do not.

    Raises:
        BusyMachineError: Other processes use the cores.
        BenchmarkError: The contestants do not do the same work.
    """
    watch.check(what)
    case = make()
    with watch.during(f"during {what}") as load:
        turns = take_turns(case.contestants, rounds, warm_ups=warm_ups)
    ours, *others = case.contestants
    share = None
    if case.least_seconds is not None:
        share = case.least_seconds / median(turn.seconds for turn in turns[ours.name])
    for other in others:
        yield row_of(
            case.name,
            other.name,
            case.unit,
            compare(turns[ours.name], turns[other.name]),
            floor_share=share,
            foreign_cores=load.cores,
            notes=case.notes,
        )
