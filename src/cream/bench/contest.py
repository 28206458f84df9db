"""A case: contestants that do the same work, timed in turns, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import median

from cream.bench.load import LoadWatch
from cream.bench.results import Row, row_of
from cream.bench.rounds import Contestant, compare, take_turns


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
) -> Iterator[Row]:
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
