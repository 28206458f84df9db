"""What made a run: versions, machine, seeds and the fingerprints of its inputs.

A manifest is never overwritten: what the first opening says stays, and later openings by something
else are listed under it. Beside it every stage keeps who computed it (`MadeBy`).
"""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cream import __version__
from cream.errors import RunError
from cream.records import Count, Record
from cream.runs.files import read_sealed, write_sealed

RESULTS = 2
"""Version of Cream's results: counted up with every change of Cream by which the same recipe on the
same machine gives other numbers, so that no run is made half by one and half by the other."""
MANIFEST = "manifest.json"
LATER = "later_openings"
"""Key of a manifest under which openings by something else than before are listed, in order."""

PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy", "pyarrow", "reasoning-gym")


def describe_environment() -> dict[str, Any]:
    """Versions of Cream and the libraries that decide results, and the kind of machine."""
    return {
        "cream": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu_count": os.cpu_count(),
        "packages": {name: _version(name) for name in PACKAGES},
    }


def without_local_paths(value: Any) -> Any:
    """JSON values as they may be published: of an absolute path only the last name is left.

    Absolute paths tell who made something and where; nobody else can follow them.
    """
    if isinstance(value, Mapping):
        return {key: without_local_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_local_paths(inner) for inner in value]
    if not isinstance(value, str) or "\n" in value:
        return value
    head, equals, rest = value.partition("=")  # as in --set model.name=/somewhere
    if equals and _ABSOLUTE.match(rest):
        return f"{head}={without_local_paths(rest)}"
    if not _ABSOLUTE.match(value):
        return value
    return f"{LOCAL}/{_SEPARATOR.split(value.rstrip('/'))[-1]}"


_ABSOLUTE = re.compile(r"(?:file://)?(?:/|~[\w.-]*/|[A-Za-z]:[/\\])")
_SEPARATOR = re.compile(r"[/\\]")
LOCAL = "<local>"
"""Stands for the folder of what is on the machine of whoever made a run."""


class MadeBy(Record):
    """What computes: no part of a fingerprint, and another one may round otherwise."""

    cream: str
    results: Count
    """See `RESULTS`."""
    torch: str
    transformers: str
    engine: str
    """What samples."""
    dtype: str
    """Of sampling and scoring."""
    training_dtype: str
    """Of forward and backward in preference training."""
    device: str
    threads: Count
    """Of the processor, that a matrix product may use."""
    kernels: bool
    """Whether Cream's compiled kernels are there and take that device and dtype."""

    def changes(self, now: MadeBy) -> dict[str, str]:
        """What is different now, by field, in words."""
        before, after = self.model_dump(), now.model_dump()
        return {
            key: f"{key} {after[key]} (before: {before[key]})"
            for key in before
            if before[key] != after[key]
        }


DECISIVE = ("results", "engine", "dtype", "training_dtype")
"""Fields of `MadeBy` that change results by more than rounding of equal arithmetic."""


def build_manifest(
    recipe: Mapping[str, Any], inputs: Mapping[str, str], made_by: MadeBy
) -> dict[str, Any]:
    """What a manifest says of one opening of a run.

    Args:
        recipe: The resolved recipe.
        inputs: Fingerprints of what came from outside: seed model, data files.
        made_by: What computes.
    """
    return {
        "command": without_local_paths(["cream", *sys.argv[1:]]),
        "seed": recipe["seed"],
        "inputs": dict(inputs),
        "environment": describe_environment(),
        "made_by": made_by.as_json(),
    }


def read_manifest(root: Path) -> dict[str, Any] | None:
    """The manifest of a run; None if it has none.

    Raises:
        RunError: What is there is no manifest.
    """
    path = root / MANIFEST
    if not path.exists():
        return None
    found = read_sealed(path, required=False)
    later = found.get(LATER, [])
    if not isinstance(later, list) or not all(isinstance(one, dict) for one in later):
        raise RunError(f"{path}: {LATER} is no list of openings; it was changed by hand")
    return found


def last_made_by(root: Path) -> MadeBy | None:
    """What computed when a run was last opened; None if nobody says.

    Raises:
        RunError: As `read_manifest`, or it does not say it in words that are known.
    """
    manifest = read_manifest(root)
    if manifest is None:
        return None
    value = [manifest, *manifest.get(LATER, [])][-1].get("made_by")
    try:
        return None if value is None else MadeBy.model_validate(value)
    except ValidationError as error:
        raise RunError(
            f"{root / MANIFEST} does not say what computed the run (`made_by`); it was changed by "
            "hand, or written by another version: rename it to go on with a new one"
        ) from error


def record_opening(root: Path, opening: Mapping[str, Any]) -> None:
    """Write the manifest of a run, or add to it an opening that differs from the one before.

    Args:
        root: Run directory.
        opening: From `build_manifest`. Another command alone is no difference.

    Raises:
        RunError: As `read_manifest`.
    """
    first = read_manifest(root)
    if first is None:
        write_sealed(root / MANIFEST, opening)
        return
    later = first.get(LATER, [])
    last = [first, *later][-1]
    if any(last.get(key) != value for key, value in opening.items() if key != "command"):
        write_sealed(root / MANIFEST, {**first, LATER: [*later, dict(opening)]})


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
