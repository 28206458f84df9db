"""Running a stage part by part, so that an interruption loses one part at most."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar, final

import pyarrow as pa

from cream.engines.crew import Crew
from cream.errors import CreamError, NotFiniteError
from cream.protocols import LogpScorer, Progress, Sampler, SamplingParams
from cream.runs.files import read_table, write_json
from cream.runs.store import BROKEN, Stage, StageRecord
from cream.types import SampledGroup, SamplingRequest, ScoredGroup, ScoringRequest

Item = TypeVar("Item")

LOOK_SECONDS = 0.2
"""How often the workers' news are looked at."""


class Silent:
    """A `Progress` that shows nothing."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Ignore."""

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        """Ignore."""

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        """Ignore."""

    def finish(self, result: str = "") -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


class PartProgress:
    """Tells how far the part under way is, for stages whose parts take long.

    A stage's work lets it watch what a sampler or scorer yields, a group per unit; `run_shards`
    says which part that is.
    """

    def __init__(self, progress: Progress, passes: int = 1) -> None:
        """Name the progress to tell, and how often the work goes over the units of a part."""
        self._progress, self._passes = progress, passes
        self._kept = self._size = self._total = self._seen = 0

    def begin(self, kept: int, size: int, total: int) -> None:
        """A part of `size` units is begun; of `total` units `kept` are in the parts before."""
        self._kept, self._size, self._total, self._seen = kept, size, total, 0

    def sampler(self, sampler: Sampler) -> Sampler:
        """The same sampler, watched."""
        return _WatchedSampler(sampler, self._watch)

    def scorer(self, scorer: LogpScorer) -> LogpScorer:
        """The same scorer, watched."""
        return _WatchedScorer(scorer, self._watch)

    def _watch(self, groups: Iterable[Any]) -> Iterator[Any]:
        for group in groups:
            yield group
            if self._total == 0:  # several parts are under way at a time, and told when whole
                continue
            self._seen += 1
            done = min(self._seen // self._passes, self._size)
            self._progress.advance_to(self._kept + done, self._total)


Watch = Callable[[Iterable[Any]], Iterator[Any]]


@final
class _WatchedSampler:
    def __init__(self, sampler: Sampler, watch: Watch) -> None:
        self._sampler, self._watch = sampler, watch

    def sample(
        self, requests: Iterable[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        return self._watch(self._sampler.sample(requests, params))


@final
class _WatchedScorer:
    def __init__(self, scorer: LogpScorer, watch: Watch) -> None:
        self._scorer, self._watch = scorer, watch

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoredGroup]:
        return self._watch(self._scorer.score(requests))


def run_shards(
    stage: Stage,
    progress: Progress,
    *,
    label: str,
    unit: str,
    shards: Sequence[Sequence[Item]],
    work: Callable[[Sequence[Item]], pa.Table],
    summarise: Callable[[Stage], tuple[Mapping[str, Any], str]],
    sizes: Sequence[int] | None = None,
    within: PartProgress | None = None,
    live: Callable[[pa.Table], Mapping[str, float]] | None = None,
    crew: Crew | None = None,
) -> StageRecord:
    """Make the parts a stage does not have yet, one per shard, and finish it.

    Args:
        stage: Where parts go.
        progress: Told after every shard.
        label: Name shown to the user.
        unit: What is counted.
        shards: Items per part.
        work: Items to a table; called only for missing parts.
        summarise: The whole stage to its summary and its outcome in words.
        sizes: Units per shard; by default one per item.
        within: Told which part is under way, so that `work` can tell how far it is.
        live: A part to figures worth showing; shown is their mean over the parts, by units.
        crew: Workers that `work` asks. With some, as many parts are under way as it has lanes, in
            threads; this thread alone writes parts and tells progress.

    Raises:
        CreamError: What the work of a part raised; the others under way are kept before.
    """
    done = stage.finished()
    if done is not None:
        return done
    for damage in stage.begin():
        added = f"{damage.path} was written by nobody, or while the run was killed"
        progress.note(f"{added if damage.fault == 'added' else damage}; it is made again")
    missing = [i for i in range(len(shards)) if not stage.part(i).exists()]
    sizes = [len(shard) for shard in shards] if sizes is None else sizes
    total, kept = sum(sizes), sum(sizes) - sum(sizes[i] for i in missing)
    figures = _Means()
    if live is not None:
        for index in sorted({*range(len(shards))} - {*missing}):
            figures.add(live(read_table(stage.part(index))), sizes[index])
    progress.start(label, total, unit, kept)

    def begin(index: int) -> None:
        if within is not None:
            within.begin(kept, sizes[index], total)

    todo = {index: shards[index] for index in missing}
    made = _one_by_one(todo, work, begin) if crew is None else _in_lanes(crew, todo, work, progress)
    with closing(made), keeping_what_broke(stage):
        for part in made:
            stage.write_part(part.index, part.table, part.seconds, part.made_by)
            kept += sizes[part.index]
            if live is not None:
                figures.add(live(part.table), sizes[part.index])
            progress.advance(sizes[part.index], figures.values())
    summary, outcome = summarise(stage)
    record = stage.finish(summary, stage.part_seconds())
    progress.finish(outcome)
    return record


def run_parts(
    stage: Stage,
    progress: Progress,
    source: Stage,
    work: Callable[[Path], pa.Table],
    summarise: Callable[[Stage], tuple[Mapping[str, Any], str]],
    within: PartProgress | None = None,
    crew: Crew | None = None,
) -> StageRecord:
    """Make a part from every part of another stage; see `run_shards`."""
    return run_shards(
        stage,
        progress,
        label=stage.spec.label,
        unit="shards",
        shards=[[path] for path in source.parts()],
        work=lambda shard: work(shard[0]),
        summarise=summarise,
        within=within,
        crew=crew,
    )


def run_step(
    stage: Stage,
    progress: Progress,
    work: Callable[[], tuple[Mapping[str, Any], str, Mapping[str, float] | None]],
) -> StageRecord:
    """Make a stage in one step, and finish it.

    Args:
        stage: What is made, if it is not finished.
        progress: Told when it is.
        work: Writes its files; gives its summary, its outcome in words, and figures worth showing.
    """
    done = stage.finished()
    if done is not None:
        return done
    stage.begin()
    progress.start(stage.spec.label, 1, "step")
    with stopwatch() as seconds:
        summary, outcome, live = work()
    record = stage.finish(summary, seconds())
    progress.advance(1, live)
    progress.finish(outcome)
    return record


@contextmanager
def keeping_what_broke(stage: Stage) -> Iterator[None]:
    """Keep in the stage's folder what a number that is not finite was computed from.

    Raises:
        NotFiniteError: As it came, with the stage and the file.
    """
    try:
        yield
    except NotFiniteError as error:
        path = stage.folder / BROKEN
        write_json(path, error.batch)
        raise NotFiniteError(
            f"stage {stage.spec.name}: {error} The batch is kept in {path}.", error.batch
        ) from error


@dataclass(frozen=True, slots=True)
class _Part:
    index: int
    table: pa.Table
    seconds: float
    made_by: Mapping[str, Any] = field(default_factory=dict)


def _one_by_one(
    todo: Mapping[int, Sequence[Item]],
    work: Callable[[Sequence[Item]], pa.Table],
    begin: Callable[[int], None],
) -> Generator[_Part]:
    for index, shard in todo.items():
        begin(index)
        with stopwatch() as seconds:
            table = work(shard)
        yield _Part(index, table, seconds())


def _in_lanes(
    crew: Crew,
    todo: Mapping[int, Sequence[Item]],
    work: Callable[[Sequence[Item]], pa.Table],
    progress: Progress,
) -> Generator[_Part]:
    """Parts in the order in which they are done, as many under way as the crew has lanes.

    A part that fails lets those under way end; leaving this early ends the workers first, since a
    thread that waits for one would never end.
    """
    if not todo:
        return

    def lane(index: int) -> _Part:
        with crew.turn(), stopwatch() as seconds:
            table = work(todo[index])
            return _Part(index, table, seconds(), crew.made_by())

    waiting, running = deque(todo), dict[Future[_Part], int]()
    failed: list[tuple[int, BaseException]] = []
    pool = ThreadPoolExecutor(crew.lanes, thread_name_prefix="lane")
    try:
        while running or waiting:
            while waiting and len(running) < crew.lanes:
                index = waiting.popleft()
                running[pool.submit(lane, index)] = index
            done, _ = wait(running, timeout=LOOK_SECONDS, return_when=FIRST_COMPLETED)
            for text in crew.news():
                progress.note(text)
            for future in sorted(done, key=running.__getitem__):
                index, error = running.pop(future), future.exception()
                if error is None:
                    yield future.result()
                else:
                    failed.append((index, error))
                    waiting.clear()
        for index, error in failed[:1]:
            raise _named(index, error)
    except BaseException:
        crew.stop()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _named(index: int, error: BaseException) -> BaseException:
    """An error of ours, with the part that it came from."""
    if isinstance(error, NotFiniteError):
        return NotFiniteError(f"part {index}: {error}", error.batch)
    return type(error)(f"part {index}: {error}") if isinstance(error, CreamError) else error


class _Means:
    """Weighted means of figures by name."""

    def __init__(self) -> None:
        self._sums: dict[str, float] = {}
        self._weight = 0

    def add(self, figures: Mapping[str, float], weight: int) -> None:
        """Take the figures of `weight` units; the same names every time."""
        self._weight += weight
        for name, value in figures.items():
            self._sums[name] = self._sums.get(name, 0.0) + weight * value

    def values(self) -> dict[str, float]:
        """The means so far."""
        return {name: value / self._weight for name, value in self._sums.items()}


def batched(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Consecutive slices of at most `size` items."""
    iterator: Iterator[Item] = iter(items)
    return list(iter(lambda: list(islice(iterator, size)), []))


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Give a function that tells the seconds since the block began."""
    begun = time.perf_counter()
    yield lambda: time.perf_counter() - begun
