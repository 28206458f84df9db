"""A run directory: stages under fingerprints, parts written atomically, the finished mark last.

A stage is a folder. It holds numbered parts (``part-00000.parquet``), other files, and, once
finished, ``stage.json``: the fingerprint of everything that determined it, what it counted, how
long it took, and the size of each file. A finished stage is never recomputed; an unfinished one
goes on after its last whole part. Nothing here knows what a stage computes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import ValidationError

from cream.errors import RunError
from cream.records import StageSpec
from cream.runs.files import (
    TEMPORARY_PREFIX,
    read_json,
    read_table,
    read_yaml,
    remove_leftovers,
    write_json,
    write_table,
    write_yaml,
)
from cream.runs.plan import PLAN, RECIPE, StoredPlan

DONE = "stage.json"
BEGUN = "begun.json"
GIVEN = "given"
"""Key of an input that is an object of the user's: its name."""


def fingerprint(value: Any) -> str:
    """Stable short hash of a JSON value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What is known of a finished stage."""

    fingerprint: str
    seconds: float
    summary: Mapping[str, Any]
    """Counts and figures of the stage, JSON values."""


class Stage:
    """One stage's folder in a run."""

    def __init__(self, folder: Path, inputs: Mapping[str, Any], spec: StageSpec) -> None:
        """Name a stage.

        Args:
            folder: Where it lives; need not exist.
            inputs: JSON values of everything that determines the result: settings, seeds,
                fingerprints of the stages and models it reads.
            spec: What it does, kept beside the fingerprint and no part of it.
        """
        self.folder = folder
        self.spec = spec
        self.inputs = dict(inputs)
        self.fingerprint = fingerprint(self.inputs)

    def finished(self) -> StageRecord | None:
        """The record of this stage if it is whole, else None.

        Raises:
            RunError: The folder was made from other inputs, or a file it lists is gone.
        """
        if not (self.folder / DONE).exists():
            return None
        record = _read_record(self.folder / DONE)
        self._refuse_other_inputs(record["inputs"])
        for name, size in record["files"].items():
            path = self.folder / name
            if not path.exists() or path.stat().st_size != size:
                raise RunError(
                    f"{path} is missing or has changed since it was written; "
                    f"delete {self.folder} (and later stages) to make it again"
                )
        return StageRecord(self.fingerprint, record["seconds"], record["summary"])

    def begin(self) -> None:
        """Make the folder ready: clear leftovers of interrupted writes, keep whole parts.

        Raises:
            RunError: The folder holds parts made from other inputs.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        begun = self.folder / BEGUN
        if begun.exists():
            self._refuse_other_inputs(read_json(begun)["inputs"])
        else:
            write_json(begun, {"inputs": self.inputs})

    def part(self, index: int) -> Path:
        """Path of part `index`."""
        return self.folder / f"part-{index:05d}.parquet"

    def write_part(self, index: int, table: pa.Table, seconds: float) -> None:
        """Write one whole part, with the time it took."""
        metadata = {**(table.schema.metadata or {}), b"seconds": repr(seconds).encode()}
        write_table(self.part(index), table.replace_schema_metadata(metadata))

    def parts(self) -> list[Path]:
        """Whole parts in order."""
        return sorted(self.folder.glob("part-*.parquet"))

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
        """Write the finished mark, last of all."""
        files = {
            str(path.relative_to(self.folder)): path.stat().st_size
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and path.name not in (BEGUN, DONE)
        }
        record = {
            "spec": self.spec.model_dump(mode="json"),
            "fingerprint": self.fingerprint,
            "seconds": seconds,
            "summary": dict(summary),
            "inputs": self.inputs,
            "files": files,
        }
        write_json(self.folder / DONE, record)
        (self.folder / BEGUN).unlink(missing_ok=True)
        return StageRecord(self.fingerprint, seconds, summary)

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

    def stage(self, spec: StageSpec, inputs: Mapping[str, Any]) -> Stage:
        """A stage of this run; its folder is ``<run>/<name>``."""
        return Stage(self.root / spec.name, {"stage": spec.name, **inputs}, spec)

    def finished(self, name: str) -> Stage:
        """A stage that must be whole already, known by its own record.

        Raises:
            RunError: It is not finished, or a file it lists is gone.
        """
        done = self.root / name / DONE
        if not done.exists():
            raise RunError(
                f"{self.root / name} is not finished; `cream status {self.root}` shows what is, "
                "and `cream run` makes what is missing"
            )
        record = _read_record(done)
        stage = Stage(self.root / name, record["inputs"], _read_spec(done, record["spec"]))
        stage.finished()
        return stage

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run directory against other processes.

        Raises:
            RunError: Another process holds it.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise RunError(f"another cream process is using {self.root}") from error
            yield

    def claim(
        self, recipe: Mapping[str, Any], plan: StoredPlan, *, may_change: Callable[[str], bool]
    ) -> None:
        """Record recipe and plan of this run, after `refuse_other_recipe`."""
        remove_leftovers(self.root)
        self.refuse_other_recipe(recipe, may_change=may_change)
        write_json(self.root / PLAN, plan.model_dump(mode="json"))
        write_yaml(self.root / RECIPE, recipe)  # last: with it the directory is a run

    def refuse_other_recipe(
        self, recipe: Mapping[str, Any], *, may_change: Callable[[str], bool]
    ) -> None:
        """Check that the directory is this recipe's, or nobody's. Writes nothing.

        Args:
            recipe: The resolved recipe as JSON values.
            may_change: Tells of a dotted key whether it may differ from the recorded one (for
                example ``iterations``, which may be raised later).

        Raises:
            RunError: The directory was made by another recipe (the differing keys are named), or
                it holds something that is no run.
        """
        path = self.root / RECIPE
        if path.exists():
            before, now = _flatten(read_yaml(path)), _flatten(recipe)
            changed = [
                key
                for key in sorted({*before, *now})
                if before.get(key) != now.get(key) and not may_change(key)
            ]
            if changed:
                shown = "; ".join(
                    f"{key}: {before.get(key)!r} there, {now.get(key)!r} now" for key in changed[:5]
                )
                raise RunError(
                    f"{self.root} was made by another recipe ({shown}"
                    f"{'; ...' if len(changed) > 5 else ''}); set run_dir to a new folder"
                )
        elif self.root.exists():
            names = sorted(path.name for path in self.root.iterdir())
            # What a killed first write of the recipe left behind is no stranger.
            ours = (".lock", PLAN)
            strangers = [n for n in names if n not in ours and not n.startswith(TEMPORARY_PREFIX)]
            if strangers:
                raise RunError(
                    f"{self.root} is not empty and holds no run (found {strangers[0]}); "
                    "set run_dir to a new folder"
                )


def _read_record(path: Path) -> dict[str, Any]:
    record = read_json(path)
    absent = {"spec", "inputs", "files", "seconds", "summary"} - record.keys()
    if absent:
        raise RunError(
            f"{path} lacks {', '.join(sorted(absent))}; it was changed by hand: delete its folder "
            "(and those of later stages) to make it again"
        )
    return record


def _read_spec(path: Path, value: Any) -> StageSpec:
    try:
        return StageSpec.model_validate(value)
    except ValidationError as error:
        raise RunError(
            f"{path}: `spec` does not describe a stage; it was changed by hand: delete its folder "
            "(and those of later stages) to make it again"
        ) from error


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Leaves by dotted path; an empty mapping says nothing, like a key that is not there."""
    if isinstance(value, Mapping):
        children = value.items()
    elif isinstance(value, list) and any(isinstance(inner, Mapping) for inner in value):
        children = enumerate(value)
    else:
        return {prefix: value}
    return {
        key: leaf
        for name, inner in children
        for key, leaf in _flatten(inner, f"{prefix}.{name}" if prefix else str(name)).items()
    }
