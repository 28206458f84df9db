"""A run directory: stages under fingerprints, parts written atomically, the finished mark last.

A stage is a folder. It holds numbered parts (``part-00000.parquet``), other files, and, once
finished, ``stage.json``: the fingerprint of everything that determined it, what it counted, how
long it took, and a digest of each file, those of a model that it made included. A finished stage is
never recomputed, and never read without a look at whether it is still what was written; an
unfinished one goes on after its last whole part. Nothing here knows what a stage computes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from cream.errors import RunError
from cream.records import StageSpec
from cream.runs.files import (
    locked,
    make_folder,
    read_table,
    refuse_links,
    remove_folder,
    remove_leftovers,
    write_json,
    write_sealed,
    write_table,
)
from cream.runs.integrity import (
    MAKE_AGAIN,
    Damage,
    FileMark,
    damages,
    mark,
    mark_files,
    read_begun,
    read_marks,
    read_record,
    read_spec,
)
from cream.runs.manifest import MadeBy
from cream.runs.plan import StoredPlan, refuse_other_recipe, write_plan

DONE = "stage.json"
BEGUN = "begun.json"
REMOVED = "removed.json"
"""Beside ``stage.json`` of a stage whose model was deleted on purpose: why it was."""
BROKEN = "not-finite.json"
"""In the folder of a stage that met a NaN or an infinity: what it was computed from. It is gone
when the stage is begun again."""
MODELS = "models"
"""Folder of a run's models."""
CARD = "README.md"
"""Card of a model: a text for people, who may edit it; no part of what a stage made."""
LOCK = ".lock"
FOREIGN = ("trackers", "tensorboard")
"""Folders of a run directory that libraries of others write, in their own way."""
GIVEN = "given"
"""Key of an input that is an object of the user's: its name."""


def fingerprint(value: Any) -> str:
    """Stable short hash of a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def part_files(folder: Path) -> list[Path]:
    """Whole parts of a stage's folder, in order."""
    return sorted(folder.glob("part-*.parquet"))


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What is known of a finished stage."""

    fingerprint: str
    seconds: float
    summary: Mapping[str, Any]
    """Counts and figures of the stage, JSON values."""


class Stage:
    """One stage's folder in a run."""

    def __init__(
        self,
        folder: Path,
        inputs: Mapping[str, Any],
        spec: StageSpec,
        made_by: MadeBy | None = None,
    ) -> None:
        """Name a stage.

        Args:
            folder: Where it lives; need not exist.
            inputs: JSON values of everything that determines the result: settings, seeds,
                fingerprints of the stages and models it reads.
            spec: What it does, kept beside the fingerprint and no part of it.
            made_by: What computes it, kept likewise; None where nobody says.
        """
        self.folder = folder
        self.spec = spec
        self.made_by = made_by
        self.inputs = dict(inputs)
        self.fingerprint = fingerprint(self.inputs)
        self._makers: list[Any] = []
        self._whole: dict[str, FileMark] = {}
        """Parts on the disk, while the stage is under way."""

    def finished(self) -> StageRecord | None:
        """The record of this stage if it is whole, else None.

        The content of its files is checked, once per process; of a model that it made, whether the
        files are there and untouched (see `check_model`).

        Raises:
            RunError: The folder was made from other inputs, or a file is not what was written.
        """
        if not (self.folder / DONE).exists():
            return None
        record = read_record(self.folder / DONE)
        self._refuse_other_inputs(record["inputs"])
        self._refuse(self._file_damages(record, full=True))  # small, and about to be read
        self._refuse(self._model_damages(record, full=False))
        return StageRecord(self.fingerprint, record["seconds"], record["summary"])

    def damages(self, *, full: bool) -> list[Damage]:
        """Every file of this finished stage, or of its model, that is not what was written.

        Args:
            full: Read the content of all, not only of those whose time of change is another.

        Raises:
            RunError: Its record cannot be read.
        """
        record = read_record(self.folder / DONE)
        found = self._file_damages(record, full=full), self._model_damages(record, full=full)
        return [damage for source in found for damage in source]

    def bytes(self) -> int:
        """Size of the files of this finished stage, those of its model included."""
        record = read_record(self.folder / DONE)
        models = {} if self.model_removed else record["model_files"]
        marks = (read_marks(self.folder / DONE, value) for value in (record["files"], models))
        return sum(mark.bytes for of in marks for mark in of.values())

    @property
    def model_folder(self) -> Path | None:
        """Where the model is that this stage makes; None if it makes none."""
        if self.spec.result is None:
            return None
        return self.folder.parents[self.spec.name.count("/")] / MODELS / self.spec.result

    @property
    def model_removed(self) -> bool:
        """Whether the model that this stage made was deleted on purpose."""
        return (self.folder / REMOVED).exists()

    def check_model(self) -> None:
        """Check the content of the model that this finished stage made, once per process.

        Raises:
            RunError: A file of it is not what was written.
        """
        self._refuse(self._model_damages(read_record(self.folder / DONE), full=True))

    def remove_model(self, why: str) -> None:
        """Delete the model that this finished stage made, and keep a note of it."""
        if self.model_folder is not None and not self.model_removed:
            write_json(self.folder / REMOVED, {"why": why})
        if self.model_folder is not None:
            remove_folder(self.model_folder)

    def _file_damages(self, record: Mapping[str, Any], *, full: bool) -> Iterator[Damage]:
        marks = read_marks(self.folder / DONE, record["files"])
        yield from damages(self.folder, marks, full=full)
        yield from (Damage(p, "added") for p in self.parts() if p.name not in marks)

    def _model_damages(self, record: Mapping[str, Any], *, full: bool) -> Iterator[Damage]:
        folder = self.model_folder
        if folder is None or self.model_removed:
            return
        marks = read_marks(self.folder / DONE, record["model_files"])
        if not folder.is_dir():
            yield Damage(folder, "missing")
            return
        yield from damages(folder, marks, full=full)
        added = [p for p in sorted(folder.iterdir()) if p.name not in marks and _is_of_model(p)]
        yield from (Damage(path, "added") for path in added)

    def _refuse(self, found: Iterator[Damage]) -> None:
        for first in found:
            raise RunError(
                f"{first}. It is of the stage {self.spec.name}: delete {self.folder} (and those of "
                "later stages) to make it again, or put the file back from a copy"
            )

    def begin(self) -> list[Damage]:
        """Make the folder ready: clear leftovers of interrupted writes, keep whole parts.

        Returns:
            Parts that are not what was written, or that nobody recorded; they are gone now, and
            made again like others that are missing.

        Raises:
            RunError: The folder holds parts made from other inputs.
        """
        make_folder(self.folder)
        remove_leftovers(self.folder)
        (self.folder / BROKEN).unlink(missing_ok=True)
        begun = self.folder / BEGUN
        held = read_begun(begun) if begun.exists() else {}
        self._refuse_other_inputs(held.get("inputs", self.inputs))
        known = read_marks(begun, held.get("parts", {}))
        bad = list(damages(self.folder, known, full=True))
        bad += [Damage(path, "added") for path in self.parts() if path.name not in known]
        for damage in bad:
            damage.path.unlink(missing_ok=True)
        self._makers = list(held.get("made_by", []))
        ours = [] if self.made_by is None else [self.made_by.as_json()]
        if self._makers[-1:] != ours:
            self._makers += ours
        self._whole = {n: m for n, m in known.items() if (self.folder / n).exists()}
        self._note_begun()
        return bad

    def _note_begun(self) -> None:
        parts = _dumped(self._whole)
        record = {"inputs": self.inputs, "made_by": self._makers, "parts": parts}
        write_sealed(self.folder / BEGUN, record)

    def part(self, index: int) -> Path:
        """Path of part `index`."""
        return self.folder / f"part-{index:05d}.parquet"

    def write_part(
        self, index: int, table: pa.Table, seconds: float, made_by: Mapping[str, Any] | None = None
    ) -> None:
        """Write one whole part, with the time it took and, where others made it, who."""
        metadata = {**(table.schema.metadata or {}), b"seconds": repr(seconds).encode()}
        if made_by:
            metadata[b"made_by"] = json.dumps(dict(made_by)).encode()
        path = self.part(index)
        write_table(path, table.replace_schema_metadata(metadata))
        self._whole[path.name] = mark(path)
        self._note_begun()

    def parts(self) -> list[Path]:
        """Whole parts in order."""
        return part_files(self.folder)

    def tables(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        """Read the parts one at a time."""
        for path in self.parts():
            yield read_table(path, columns)

    def part_seconds(self) -> float:
        """Time spent on the parts that exist, over all attempts."""
        import pyarrow.parquet as pq

        metadata = (pq.read_schema(path).metadata or {} for path in self.parts())
        return sum(float(entry.get(b"seconds", b"0")) for entry in metadata)

    def finish(self, summary: Mapping[str, Any], seconds: float) -> StageRecord:
        """Write the finished mark, last of all: everything that it speaks of is on the disk before.

        Raises:
            RunError: The model that the stage makes is not there, or a part has changed since it
                was written.
        """
        self._refuse(damages(self.folder, self._whole, full=True))
        record = {
            "spec": self.spec.model_dump(mode="json"),
            "fingerprint": self.fingerprint,
            "seconds": seconds,
            "summary": dict(summary),
            "inputs": self.inputs,
            "made_by": self._makers,
            "files": _dumped(mark_files(self.folder, kept=_is_result)),
            "model_files": self._mark_model(),
        }
        write_sealed(self.folder / DONE, record)
        (self.folder / BEGUN).unlink(missing_ok=True)
        return StageRecord(self.fingerprint, seconds, summary)

    def _mark_model(self) -> dict[str, Any]:
        folder = self.model_folder
        if folder is None:
            return {}
        if not folder.is_dir():
            raise RunError(f"{folder}, the model of the stage {self.spec.name}, was not written")
        return _dumped(mark_files(folder, kept=_is_of_model))

    def _refuse_other_inputs(self, found: Mapping[str, Any]) -> None:
        if fingerprint(found) == self.fingerprint:
            return
        changed = [k for k in {**found, **self.inputs} if found.get(k) != self.inputs.get(k)]
        raise RunError(
            f"{self.folder} was made from other inputs (changed: {', '.join(sorted(changed))}); "
            "use another run_dir, or delete that folder and those of later stages"
        )


class Run:
    """A run directory, held by one process at a time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made_by: MadeBy | None = None
        """What computes the stages that are made from now on; None: nobody says."""

    def stage(self, spec: StageSpec, inputs: Mapping[str, Any]) -> Stage:
        """A stage of this run; its folder is ``<run>/<name>``."""
        inputs = {"stage": spec.name, **inputs}
        return Stage(self.root / spec.name, inputs, spec, self.made_by)

    def finished(self, name: str) -> Stage:
        """A stage that must be whole already, known by its own record.

        Raises:
            RunError: It is not finished, or a file is not what was written.
        """
        stage = self.recorded(name)
        stage.finished()
        return stage

    def recorded(self, name: str) -> Stage:
        """A finished stage as its own record describes it; its files are not looked at.

        Raises:
            RunError: It is not finished, or its record is damaged or another stage's.
        """
        done = self.root / name / DONE
        if not done.exists():
            raise RunError(
                f"{self.root / name} is not finished; `cream status {self.root}` shows what is, "
                "and `cream run` makes what is missing"
            )
        record = read_record(done)
        spec = read_spec(done, record["spec"])
        if spec.name != name:
            raise RunError(
                f"{done} is the record of the stage {spec.name}, copied here; {MAKE_AGAIN}"
            )
        return Stage(self.root / name, record["inputs"], spec)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run directory against other processes.

        Raises:
            RunError: Another process holds it, or a link in it leads elsewhere.
        """
        make_folder(self.root)
        with locked(self.root / LOCK):
            refuse_links(self.root, without=FOREIGN)
            yield

    def claim(
        self, recipe: Mapping[str, Any], plan: StoredPlan, *, may_change: Callable[[str], bool]
    ) -> None:
        """Record recipe and plan of this run, after `refuse_other_recipe`."""
        remove_leftovers(self.root)
        refuse_other_recipe(self.root, recipe, may_change=may_change)
        write_plan(self.root, plan, recipe)


def _is_result(path: Path) -> bool:
    return path.name not in (BEGUN, DONE, REMOVED)


def _is_of_model(path: Path) -> bool:
    return path.name != CARD and not path.name.startswith(".")


def _dumped(marks: Mapping[str, FileMark]) -> dict[str, Any]:
    return {name: mark.model_dump() for name, mark in marks.items()}
