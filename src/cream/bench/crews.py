"""What ``cluster: ray`` costs, and what a second worker brings.

The same parts are made by the stage runner in this process, on one worker and on two, of one thread
each, in turns, and are compared bit for bit before anything is timed. Starts are no part of that
and are timed apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow as pa
import torch

from cream.bench.contest import Contestant, ContestRow, ContestTurn, compare, row_of, take_turns
from cream.bench.inputs import Subject, prompts, scoring_requests
from cream.bench.machine import LoadWatch
from cream.bench.results import TimedPoint
from cream.engines.checkpoints import Checkpoints
from cream.engines.crew import Crew
from cream.engines.crew_engine import OnCrew
from cream.engines.engine import OnTorch
from cream.errors import BenchmarkError
from cream.loop.stage_runner import Silent, batched, run_shards, stopwatch
from cream.models.devices import threads
from cream.protocols import SamplingParams
from cream.recipe.cluster import RayCluster
from cream.recipe.engine import TorchEngine
from cream.records import StageSpec
from cream.runs.store import Stage
from cream.runs.tables import completions_to_table
from cream.stages.sample import sample
from cream.types import EncodedPrompt, Prompt

HERE, ONE, TWO = "this process", "1 worker", "2 workers"
PARTS = 8
N = 5
"""Completions of a prompt."""
GOALS = {ONE: "goal: at least 0.97", TWO: "goal: at least 0.9"}


@dataclass(frozen=True, slots=True)
class PartsJob:
    """Parts of a stage, and how one is made."""

    name: str
    unit: str
    shards: Sequence[Sequence[Any]]
    make: Callable[[OnTorch | OnCrew, Sequence[Any]], pa.Table]
    work: Callable[[pa.Table], int]
    """Units in all parts together."""


def why_no_workers(subject: Subject, *, allow_load: bool) -> str | None:
    """Why workers cannot be timed here; None if they can."""
    if find_spec("ray") is None:
        return "Ray is not installed; install Cream's extra `ray`"
    if subject.device.type != "cpu":
        return "this part is of workers on CPUs; give --device cpu"
    cores = threads().usable_cores
    if cores < 2 and not allow_load:
        return f"two workers need two cores, and this process may use {cores}"
    return None


@dataclass(frozen=True, slots=True)
class WorkersBench:
    """This process, a crew of one worker and a crew of two, on one model."""

    subject: Subject
    watch: LoadWatch
    rounds: int
    quick: bool
    engines: Mapping[str, OnTorch | OnCrew]

    def starts(self) -> Iterator[TimedPoint]:
        """Seconds until workers have answered, and until one has loaded the model."""
        for workers, name in ((1, ONE), (2, TWO)):
            crew = _crew_of(self.engines[name])
            assert crew is not None
            seconds = []
            for _ in range(1 if self.quick else 3):
                crew.release()
                seconds.append(_seconds(lambda crew=crew: crew.ask("about")))
            yield _point("start of workers", workers, "workers", median(seconds), len(seconds))
        requests = scoring_requests(self.subject.encoder, 1, 1, (64, 64), (4, 4))
        for workers, name in ((0, HERE), (1, ONE)):
            engine = self.engines[name]
            seconds = _seconds(lambda engine=engine: list(engine.scorer("M0").score(requests)))
            yield _point("model loaded, one prompt scored", workers, "workers", seconds, 1)

    def rows(self) -> Iterator[ContestRow]:
        """One worker against this process, and two against twice the rate of one.

        Raises:
            BusyMachineError: Other processes use the cores.
            BenchmarkError: Workers made other parts.
        """
        for make in (sampling_job, scoring_job):
            job = make(self.subject, quick=self.quick)
            self.watch.check(job.name)
            found = {name: self._made(job, name) for name in self.engines}
            differ = [name for name, table in found.items() if not table.equals(found[HERE])]
            if differ:
                raise BenchmarkError(f"{job.name}: {differ[0]} made other parts than {HERE}")
            amount = float(job.work(found[HERE]))
            contestants = [
                Contestant(name, partial(self._timed, job, name, amount)) for name in self.engines
            ]
            with self.watch.during(f"during {job.name}") as load:
                turns = take_turns(contestants, self.rounds, warm_ups=0)
            twice = [ContestTurn(2 * turn.work, turn.seconds) for turn in turns[ONE]]
            parts = f"{len(job.shards)} parts of {len(job.shards[0])} prompts x {N}"
            how = (
                f"{self.subject.dtype_name}, 1 thread each, usable cores: {threads().usable_cores}"
            )
            for ours, baseline, theirs in ((ONE, HERE, turns[HERE]), (TWO, f"twice {ONE}", twice)):
                yield row_of(
                    f"{job.name}: {ours}",
                    baseline,
                    job.unit,
                    compare(turns[ours], theirs),
                    floor_share=None,
                    foreign_cores=load.cores,
                    notes=(parts, how, "the same parts, bit for bit", GOALS[ours]),
                )

    def _timed(self, job: PartsJob, name: str, amount: float) -> float:
        self._made(job, name)
        return amount

    def _made(self, job: PartsJob, name: str) -> pa.Table:
        """All parts as a stage of a run makes them, written to the disk."""
        engine = self.engines[name]
        with tempfile.TemporaryDirectory(prefix="cream-bench-") as folder:
            spec = StageSpec(name="parts", kind="sample", t=1, label=job.name)
            stage = Stage(Path(folder) / "parts", {}, spec)
            run_shards(
                stage,
                Silent(),
                label=job.name,
                unit="prompts",
                shards=job.shards,
                work=lambda shard: job.make(engine, shard),
                summarise=lambda stage: ({}, ""),
                crew=_crew_of(engine),
            )
            return pa.concat_tables(stage.tables())


def sampling_job(subject: Subject, *, quick: bool) -> PartsJob:
    """Completions of 64 tokens (quick: 8) after short prompts; end tokens are ignored."""
    params = SamplingParams(0.8, 0.95, 8 if quick else 64, ())
    encoded = [
        EncodedPrompt(Prompt(f"p{index}", ()), ids)
        for index, ids in enumerate(prompts(subject.encoder, PARTS * (1 if quick else 6)))
    ]

    def make(engine: OnTorch | OnCrew, shard: Sequence[EncodedPrompt]) -> pa.Table:
        groups = sample(
            shard,
            engine.sampler("M0"),
            params,
            num_completions=N,
            seed_of=lambda prompt_id, k: N * int(prompt_id[1:]) + k,
            decode=subject.encoder.decode,
        )
        return completions_to_table(c for group in groups for c in group)

    shards = batched(encoded, len(encoded) // PARTS)
    return PartsJob(
        "sampling", "tokens/s", shards, make, lambda table: sum(map(len, table["token_ids"]))
    )


def scoring_job(subject: Subject, *, quick: bool) -> PartsJob:
    """Completions of 60 to 140 tokens (quick: 4 to 8) after prompts of about 100."""
    lengths = (4, 8) if quick else (60, 140)
    count = PARTS * (1 if quick else 6)
    requests = scoring_requests(subject.encoder, count, N, (80, 120), lengths)

    def make(engine: OnTorch | OnCrew, shard: Sequence[Any]) -> pa.Table:
        scored = {group.prompt_id: group for group in engine.scorer("M0").score(shard)}
        rows = [list(map(float, x)) for r in shard for x in scored[r.prompt_id].token_logps]
        return pa.table({"token_logps": rows})

    return PartsJob(
        "scoring",
        "completion tokens/s",
        batched(requests, count // PARTS),
        make,
        lambda table: sum(map(len, table["token_logps"])),
    )


@contextmanager
def opened_workers(
    subject: Subject, watch: LoadWatch, *, rounds: int, quick: bool
) -> Iterator[tuple[WorkersBench, TimedPoint]]:
    """A Ray of this machine's own, with seconds of its start; one thread here, as in a worker."""
    ray, before = import_module("ray"), torch.get_num_threads()
    quiet = {"include_dashboard": False, "logging_level": "ERROR", "log_to_driver": False}
    seconds = _seconds(lambda: ray.init(address="local", num_cpus=3, **quiet))
    torch.set_num_threads(1)
    engines: dict[str, OnTorch | OnCrew] = {HERE: OnTorch(_checkpoints(subject))}
    for workers, name in ((1, ONE), (2, TWO)):
        crew = Crew(RayCluster(workers=workers), subject.device.type)
        engines[name] = OnCrew(crew, _checkpoints(subject), TorchEngine())
    try:
        yield (
            WorkersBench(subject, watch, rounds, quick, engines),
            _point("start of Ray", 3, "CPUs", seconds, 1),
        )
    finally:
        torch.set_num_threads(before)
        for engine in engines.values():
            if isinstance(engine, OnCrew):
                engine.crew.release()
        ray.shutdown()


def _crew_of(engine: OnTorch | OnCrew) -> Crew | None:
    return engine.crew if isinstance(engine, OnCrew) else None


def _checkpoints(subject: Subject) -> Checkpoints:
    return Checkpoints(
        folder=subject.folder / "none",
        seed_folder=subject.folder,
        seed_name=subject.name,
        tokenizer=None,  # nothing is saved
        device=subject.device,
        compute_dtype=subject.dtype,
        context_length=subject.context_length,
    )


def _seconds(run: Callable[[], object]) -> float:
    with stopwatch() as seconds:
        run()
    return seconds()


def _point(curve: str, x: int, x_name: str, seconds: float, n: int) -> TimedPoint:
    return TimedPoint(curve, float(x), x_name, seconds, "s", n, None)
