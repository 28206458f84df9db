"""The order of a benchmark: the floor, then the cases of each part that is asked for.

Results are kept in a `Document` as they come, so that a run that is refused half-way (another
process took the cores) still has what it found before.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from cream.bench.contest import Case, run_case
from cream.bench.crews import opened_workers, why_no_workers
from cream.bench.floors import Floor, measure_floor
from cream.bench.inputs import SHAPES, Subject, load_subject, random_model
from cream.bench.machine import LoadWatch, describe_machine
from cream.bench.results import Document
from cream.bench.sampling import (
    Workload,
    quickstart_subject,
    quickstart_workload,
    sampling_case,
    workloads,
)
from cream.bench.scaling import (
    PROMPT_TOKENS,
    Curve,
    curves,
    fits,
    measure_curve,
    size_curve,
)
from cream.bench.scoring import LENGTHS, scoring_case
from cream.bench.training import training_rows, why_no_trl
from cream.bench.workers import VllmWorker
from cream.errors import BenchmarkError
from cream.models.devices import threads
from cream.models.folders import resolve_model
from cream.recipe.model import ModelConfig
from cream.runs.reader import RunReader


class BenchPart(StrEnum):
    """What can be benchmarked."""

    SAMPLING = "sampling"
    SCORING = "scoring"
    TRAINING = "training"
    WORKERS = "workers"


@dataclass(frozen=True, slots=True)
class Settings:
    """How a benchmark is run."""

    parts: tuple[BenchPart, ...]
    rounds: int
    """Rounds that count; one more, the warm-up, checks that all do the same work."""
    quick: bool
    """Fewer and shorter inputs: for trying something, not for a figure to keep."""
    threads: int | None
    """CPU threads; None takes all cores this process may use."""
    recipe: Path | None
    """The quickstart's recipe, for its prompts; None leaves its cases out."""
    trained: Path | None
    """A finished run of that recipe, whose M1 gives the short answers."""
    vllm_python: Path | None
    """Python of an environment that has vLLM, or None."""
    scaling: bool
    """Also how the cost grows."""
    whole: bool
    """Also the whole recipe, once; takes minutes."""
    allow_load: bool
    """Go on beside other processes, and say so."""


Note = Callable[[str], None]
"""Told what is being done."""


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One run of the benchmark."""

    settings: Settings
    subject: Subject
    watch: LoadWatch
    document: Document
    """Filled as results come."""
    note: Note
    cache_dir: Path

    def run(self) -> None:
        """Measure everything that is asked for, into the document.

        Raises:
            BusyMachineError: Other processes use the cores.
            BenchmarkError: Contestants do not do the same work, or one cannot be run.
        """
        self.note("floor: matrix products and copies")
        self.watch.check("the floor")
        floor = measure_floor(self.subject.shape, self.subject.device)
        self.document.floor = floor
        for part in self.settings.parts:
            match part:
                case BenchPart.SAMPLING:
                    self._sampling(floor)
                case BenchPart.SCORING:
                    self._scoring(floor)
                case BenchPart.TRAINING:
                    self._training(floor)
                case BenchPart.WORKERS:
                    self._workers()
        if self.settings.scaling:
            self._scaling(floor)
        if self.settings.whole:
            self._whole()
        self.document.complete = True

    def _scoring(self, floor: Floor) -> None:
        for lengths in LENGTHS:
            self._contest(
                f"scoring: {lengths.name}",
                lengths.longest,
                lambda lengths=lengths: scoring_case(
                    self.subject, lengths, floor, quick=self.settings.quick
                ),
            )

    def _sampling(self, floor: Floor) -> None:
        self._sample(self.subject, workloads(self.subject, quick=self.settings.quick), floor)
        recipe, trained = self.settings.recipe, self.settings.trained
        if recipe is None:
            self._skip("sampling: quickstart answers", "no recipe; give --recipe")
            return
        tuned = quickstart_subject(recipe, trained, self.cache_dir)
        workload = quickstart_workload(
            recipe, tuned, trained=trained is not None, quick=self.settings.quick
        )
        self._sample(tuned, [workload], floor)

    def _sample(self, subject: Subject, cases: Iterable[Workload], floor: Floor) -> None:
        with ExitStack() as stack:
            vllm = None
            if self.settings.vllm_python is None:
                self._skip("vllm", "no environment of it; give --vllm-python")
            else:
                self.note("starting vLLM")
                vllm = VllmWorker(
                    self.settings.vllm_python,
                    subject.folder,
                    dtype=subject.dtype_name,
                    longest=1024,
                    threads=torch.get_num_threads(),
                    device=subject.device.type,
                )
                stack.callback(vllm.close)
                self.document.machine["vllm"] = vllm.version
            for workload in cases:
                self._contest(
                    f"sampling: {workload.name}",
                    workload.longest,
                    lambda workload=workload: sampling_case(subject, workload, floor, vllm),
                )

    def _training(self, floor: Floor) -> None:
        reason = why_no_trl()
        if reason is not None:
            self._skip("training", reason)
            return
        self.note("training")
        rounds, quick = self.settings.rounds, self.settings.quick
        self.document.rows.extend(
            training_rows(self.subject, floor, self.watch, rounds=rounds, quick=quick)
        )

    def _workers(self) -> None:
        rounds, quick = self.settings.rounds, self.settings.quick
        reason = why_no_workers(self.subject, allow_load=self.settings.allow_load)
        if reason is not None:
            self._skip("workers", reason)
            return
        self.note("workers: start")
        with opened_workers(self.subject, self.watch, rounds=rounds, quick=quick) as (bench, start):
            self.document.machine["packages"]["ray"] = version("ray")
            self.document.points.extend([start, *bench.starts()])
            self.note("workers: sampling and scoring")
            for row in bench.rows():
                self.document.rows.append(row)

    def _scaling(self, floor: Floor) -> None:
        rounds, quick = self.settings.rounds, self.settings.quick
        for curve in self._curves(floor, quick=quick):
            self.note(f"scaling: {curve.name} over {curve.x_name}")
            self.document.points.extend(measure_curve(curve, self.watch, rounds=rounds))

    def _curves(self, floor: Floor, *, quick: bool) -> Iterator[Curve]:
        if not fits(self.subject, PROMPT_TOKENS):
            self._skip("scaling", f"the model has positions for {self.subject.context_length}")
            return
        yield from curves(self.subject, floor, quick=quick)
        others = [
            load_subject(self._random(name), self.cache_dir)
            for name in ("random-llama-40m", "random-llama-360m")
        ]
        yield size_curve([self.subject, *others], floor, quick=quick)

    def _random(self, name: str) -> ModelConfig:
        folder = random_model(name, self.subject.folder, self.cache_dir)
        return ModelConfig(name=str(folder), device=str(self.subject.device))

    def _whole(self) -> None:
        if self.settings.recipe is None:
            self._skip("whole run", "no recipe; give --recipe")
            return
        self.note("whole run")
        self.watch.check("the whole run")
        with self.watch.during("during the whole run"):
            stages = run_whole(
                self.settings.recipe, self.cache_dir, threads=torch.get_num_threads()
            )
        self.document.stages.extend(stages)

    def _contest(self, what: str, longest: int, make: Callable[[], Case]) -> None:
        limit = self.subject.context_length
        if limit is not None and longest > limit:
            self._skip(what, f"{longest} tokens, and the model has positions for {limit}")
            return
        self.note(what)
        for row in run_case(make, self.watch, what=what, rounds=self.settings.rounds):
            self.document.rows.append(row)

    def _skip(self, name: str, reason: str) -> None:
        entry = {"name": name, "reason": reason}
        if entry not in self.document.skipped:
            self.document.skipped.append(entry)


def open_benchmark(
    settings: Settings, model: ModelConfig, *, command: Sequence[str], cache_dir: Path, note: Note
) -> Benchmark:
    """Set the threads, load the model and describe the machine; time nothing.

    Raises:
        ModelError: The model cannot be used.
    """
    torch.set_num_threads(settings.threads or threads().usable_cores)
    subject = load_subject(_existing(model, cache_dir), cache_dir)
    document = Document(
        command=shlex.join(command),
        machine=describe_machine(subject.device),
        settings={
            "model": model.name,
            "dtype": subject.dtype_name,
            "rounds": settings.rounds,
            "quick": settings.quick,
            "allow_load": settings.allow_load,
        },
    )
    watch = LoadWatch(allowed=settings.allow_load)
    return Benchmark(settings, subject, watch, document, note, cache_dir)


def _existing(model: ModelConfig, cache_dir: Path) -> ModelConfig:
    """A model that can be loaded: random ones are written first."""
    if model.name not in SHAPES:
        return model
    tokenizer_from = resolve_model(ModelConfig(), cache_dir)
    folder = random_model(model.name, tokenizer_from, cache_dir)
    return model.model_copy(update={"name": str(folder)})


RUN = "from cream.cli import main; main()"
TOTAL = "whole run"


def run_whole(recipe: Path, cache_dir: Path, *, threads: int) -> list[dict[str, Any]]:
    """Run a recipe in a new folder, which is deleted, and return seconds per stage and in all.

    Raises:
        BenchmarkError: The run failed.
    """
    with tempfile.TemporaryDirectory(prefix="cream-bench-") as name:
        root = Path(name) / "run"
        command = [sys.executable, "-c", RUN, "run", str(recipe), "--quiet"]
        environment = {"CREAM_CACHE": str(cache_dir), "OMP_NUM_THREADS": str(threads)}
        started = time.monotonic()
        done = subprocess.run(  # noqa: S603 - this very program
            [*command, "--set", f"run_dir={root}"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise BenchmarkError(f"the whole run of {recipe} failed: {reason}")
        return [*stage_seconds(root), {"stage": TOTAL, "seconds": seconds}]


def stage_seconds(run: Path) -> list[dict[str, Any]]:
    """Seconds of every finished stage of a run directory, in running order."""
    finished = RunReader(run).finished
    return [{"stage": name, "seconds": stage.seconds} for name, stage in finished.items()]
