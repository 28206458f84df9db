"""A run directory as it is read: its plan, and of each stage what is there.

Who reports, explains, exports or compares opens a `RunReader` and asks by what a stage does, in
which iteration, with which model. No other place opens ``stage.json`` of a run that is made, or
builds the name of a stage.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from cream.errors import RunError
from cream.pair_records import PairSummary
from cream.recipe import Recipe
from cream.recipe.load import validate_recipe
from cream.recipe.parts import Agreement
from cream.records import AnyRecord, StageKind, StageSpec
from cream.runs.files import read_table
from cream.runs.integrity import read_record
from cream.runs.manifest import read_manifest
from cream.runs.plan import RECIPE, read_plan, read_recipe
from cream.runs.sharing import POINTER
from cream.runs.store import BEGUN, DONE, GIVEN, Run, part_files
from cream.types import Origin

METRICS = "metrics.jsonl"
PAIRS, PROMPTS = "pairs.parquet", "prompts.parquet"
"""Tables of a pair stage: a row per pair, and a row per prompt with what became of it."""
ADVANTAGES = "advantages.parquet"
"""Table of an advantage stage, which has that of prompts too: a row per sample, with its reward,
its advantage where it is trained on, and what became of it."""
State = Literal["finished", "begun", "missing"]
Curve = Sequence[Mapping[str, Any]]
"""Steps of a training in order: ``step``, and metrics by their names; null where not finite."""


@dataclass(frozen=True)
class FinishedStage:
    """A stage that is whole."""

    spec: StageSpec
    folder: Path
    fingerprint: str
    seconds: float
    """Over all attempts."""
    figures: Mapping[str, Any]
    """Its summary, JSON values; see `summary`."""
    inputs: Mapping[str, Any]
    """What determined it, JSON values."""

    def summary(self, kind: type[AnyRecord]) -> AnyRecord:
        """What the stage found, as the record that stages of its kind write.

        Raises:
            RunError: It is no such record.
        """
        return kind.read(self.figures, self.folder / DONE)

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Its parts, one at a time."""
        for path in self.paths:
            yield read_table(path, None if columns is None else list(columns))

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All parts as one."""
        return pa.concat_tables(self.tables(columns))

    def file(self, name: str, columns: Sequence[str] | None = None) -> pa.Table:
        """A named table of it, such as ``pairs.parquet``."""
        self._check()
        return read_table(self.folder / name, None if columns is None else list(columns))

    def rows(self, *columns: str) -> Iterator[tuple[Any, ...]]:
        """Values of some columns, row by row over all parts."""
        for table in self.tables(columns):
            yield from rows_of(table, *columns)

    @property
    def paths(self) -> list[Path]:
        """Files of its parts in order.

        Raises:
            RunError: A file of the stage is not what was written.
        """
        self._check()
        return part_files(self.folder)

    def _check(self) -> None:
        """Compare the stage's files with what was written, once per process."""
        Run(self.folder.parents[self.spec.name.count("/")]).finished(self.spec.name)

    @property
    def is_shared(self) -> bool:
        """Whether it was taken over from another run."""
        return (self.folder / POINTER).exists()

    @property
    def curve(self) -> Curve:
        """Metrics over the steps of a training; empty for other stages.

        Raises:
            RunError: The file was changed by hand.
        """
        self._check()
        path = self.folder / METRICS
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        try:
            return [json.loads(line) for line in lines]
        except ValueError as error:
            raise RunError(f"{path} is not JSON lines ({error}); it was changed by hand") from error

    @property
    def given_objective(self) -> str | None:
        """Name of the objective that was given in Python to this training, if one was."""
        objective = self.inputs.get("objective")
        return objective.get(GIVEN) if isinstance(objective, Mapping) else None


def rows_of(table: pa.Table, *columns: str) -> Iterator[tuple[Any, ...]]:
    """Values of some columns, row by row."""
    return zip(*(table[name].to_pylist() for name in columns), strict=True)


def progress_of(root: Path, spec: StageSpec) -> State:
    """How far a stage of a run directory is, which need not exist."""
    folder = root / spec.name
    if (folder / DONE).exists():
        return "finished"
    return "begun" if (folder / BEGUN).exists() else "missing"


def finished_stage(root: Path, spec: StageSpec) -> FinishedStage | None:
    """A stage of a run directory if it is whole.

    Raises:
        RunError: Its record was changed by hand.
    """
    folder = root / spec.name
    if not (folder / DONE).exists():
        return None
    record = read_record(folder / DONE)
    return FinishedStage(
        spec,
        folder,
        fingerprint=record["fingerprint"],
        seconds=float(record["seconds"]),
        figures=record["summary"],
        inputs=record["inputs"],
    )


class RunReader:
    """What a run directory holds. Records are read once, when first asked for."""

    def __init__(self, root: Path, *, without: Collection[str] = ()) -> None:
        """Open a run directory.

        Args:
            root: The directory.
            without: Stages that are taken for unfinished, such as damaged ones.

        Raises:
            RunError: `root` holds no run, or one of another version.
        """
        self.root, self._without = root, frozenset(without)
        self.plan = read_plan(root)

    @cached_property
    def values(self) -> Mapping[str, Any]:
        """The resolved recipe as it is stored; a later version may not know all of it."""
        return read_recipe(self.root)

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe.

        Raises:
            RecipeError: This version does not know one of its settings.
        """
        return validate_recipe(dict(self.values), source=str(self.root / RECIPE))

    @cached_property
    def finished(self) -> Mapping[str, FinishedStage]:
        """Stages that are whole, by name, in running order."""
        specs = [spec for spec in self.plan.stages if spec.name not in self._without]
        found = (finished_stage(self.root, spec) for spec in specs)
        return {stage.spec.name: stage for stage in found if stage is not None}

    @property
    def manifest(self) -> Mapping[str, Any] | None:
        """What the run was made by and from; None if it was not written yet."""
        return read_manifest(self.root)

    def of(self, *kinds: StageKind) -> list[FinishedStage]:
        """Finished stages of these kinds, in running order."""
        return [stage for stage in self.finished.values() if stage.spec.kind in kinds]

    def sole(self, kind: StageKind, t: int) -> FinishedStage | None:
        """The one of iteration t that is finished: the policy's own, and no draft."""
        return next(
            (
                stage
                for stage in self.of(kind)
                if stage.spec.t == t
                and not stage.spec.branch
                and stage.spec.origin in (None, Origin.POLICY)
            ),
            None,
        )

    def needed(self, kind: StageKind, t: int) -> FinishedStage:
        """Like `sole`, for whoever cannot do without it; its files are checked.

        Raises:
            RunError: The run has no such stage, it is not finished, or a file of it is gone.
        """
        planned = self.planned(kind, t)
        if not planned:
            iterations = ", ".join(map(str, self.plan.parts))
            raise RunError(f"{self.root} has no {kind} of iteration {t}; it plans {iterations}")
        Run(self.root).finished(planned[0].name)
        return self.finished[planned[0].name]

    def planned(self, kind: StageKind, t: int) -> list[StageSpec]:
        """Stages of a kind in iteration t, finished or not; only the policy's own."""
        return [s for s in self.plan.stages if s.kind == kind and s.t == t and not s.branch]

    @property
    def evaluations(self) -> dict[str, FinishedStage]:
        """Evaluated models, M0 first."""
        return {str(stage.spec.model): stage for stage in self.of("evaluate")}

    @property
    def pairings(self) -> dict[int, FinishedStage]:
        """What made the policy's pairs, by iteration; drafts are none."""
        return {s.spec.t: s for s in self.of("pair") if not s.spec.branch}

    @property
    def weighings(self) -> dict[int, FinishedStage]:
        """What weighed the samples of methods without pairs, by iteration."""
        return {s.spec.t: s for s in self.of("advantage")}

    @property
    def decisions(self) -> dict[int, FinishedStage]:
        """What decided about every prompt, pairs or weights, by iteration."""
        return {**self.pairings, **self.weighings}

    def asked(self, t: int) -> list[FinishedStage]:
        """The frozen data that the prompts of iteration t are from."""
        names = {n for s in self.plan.stages if s.kind == "sample" and s.t == t for n in s.inputs}
        return [stage for name, stage in self.finished.items() if name in names]

    def compared(self, t: int) -> Agreement | None:
        """The agreement that the pairs of iteration t measured, in the loss or for report."""
        paired, parts = self.pairings.get(t), self.plan.parts[t]
        if paired is None or paired.summary(PairSummary).compared is None:
            return None
        return parts.agreement or parts.reported

    def maker(self, model: str) -> StageSpec | None:
        """The stage that makes a model; None for M0, and for what is no model of the run."""
        return next((spec for spec in self.plan.stages if spec.result == model), None)
