"""Running a stage part by part, so that an interruption loses one part at most."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa

from cream.protocols import Progress
from cream.runs.store import Stage, StageRecord

Item = TypeVar("Item")


def run_shards(
    stage: Stage,
    progress: Progress,
    *,
    label: str,
    unit: str,
    shards: Sequence[Sequence[Item]],
    work: Callable[[Sequence[Item]], pa.Table],
    summarise: Callable[[Stage], tuple[Mapping[str, Any], str]],
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
    """
    done = stage.finished()
    if done is not None:
        return done
    stage.begin()
    missing = [i for i in range(len(shards)) if not stage.part(i).exists()]
    total = sum(len(shard) for shard in shards)
    progress.start(label, total, unit, total - sum(len(shards[i]) for i in missing))
    for index in missing:
        with stopwatch() as seconds:
            table = work(shards[index])
        stage.write_part(index, table, seconds())
        progress.advance(len(shards[index]))
    summary, outcome = summarise(stage)
    record = stage.finish(summary, stage.part_seconds())
    progress.finish(outcome)
    return record


def batched(items: Sequence[Item], size: int) -> list[list[Item]]:
    """Consecutive slices of at most `size` items."""
    iterator: Iterator[Item] = iter(items)
    return list(iter(lambda: list(islice(iterator, size)), []))


@contextmanager
def stopwatch() -> Iterator[Callable[[], float]]:
    """Give a function that tells the seconds since the block began."""
    begun = time.perf_counter()
    yield lambda: time.perf_counter() - begun
