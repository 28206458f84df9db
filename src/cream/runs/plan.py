"""What a run directory knows of its own stages: the plan it was opened with, beside the recipe.

Every command that reads a run finds here which stages there are, what each does and what the method
reads and does in each iteration, also of a method that was composed in Python.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from cream.errors import RunError
from cream.recipe.parts import MethodParts
from cream.records import Record, StageSpec
from cream.runs.files import (
    TEMPORARY_PREFIX,
    read_sealed,
    read_yaml,
    write_sealed,
    write_yaml,
    yaml_text,
)
from cream.runs.integrity import digest

RECIPE, PLAN = "recipe.yaml", "plan.json"
FORMAT = 2
"""Layout of a run directory. Counted up when an older one can no longer be read."""
READ_BY = {1: "0.1"}
"""Version of Cream that reads an older layout."""


class StoredPlan(Record):
    """The plan of a run as its directory keeps it."""

    format: int = FORMAT
    stages: tuple[StageSpec, ...]
    """In running order."""
    parts: Mapping[int, MethodParts]
    """Per iteration what the method reads and does."""
    recipe: str | None = None
    """Digest of the recipe's file; None where an earlier version wrote it."""


@dataclass(frozen=True, slots=True)
class TokenCounts:
    """How long prompts and completions are, on average."""

    prompt: float
    """Tokens of a prompt, template included."""
    completion: float | None
    """Tokens of a completion that the data have for it; None if they have none."""


def read_plan(root: Path) -> StoredPlan:
    """The plan that a run was opened with.

    Raises:
        RunError: `root` holds no run, one of an older version, or a plan changed by hand.
    """
    refuse_old_run(root)
    if not (root / RECIPE).exists():
        raise RunError(f"{root} holds no run (no {RECIPE})")
    try:
        return StoredPlan.model_validate(read_sealed(root / PLAN, required=False))
    except ValidationError as error:
        raise RunError(
            f"{root / PLAN} is no plan of a run ({error.error_count()} problems, the first at "
            f"{'.'.join(map(str, error.errors()[0]['loc']))}); it was changed by hand: run the "
            "recipe again, which writes it anew"
        ) from error


def refuse_old_run(root: Path) -> None:
    """Refuse a run directory whose layout this version cannot read.

    Raises:
        RunError: It was made by another version, which is named.
    """
    if not (root / RECIPE).exists():
        return
    found = 1
    if (root / PLAN).exists():
        found = read_sealed(root / PLAN, required=False).get("format")
    if found != FORMAT:
        version = READ_BY.get(found) if isinstance(found, int) else None
        raise RunError(
            f"{root} was made by {'Cream ' + version if version else 'another version of Cream'}, "
            f"and this version cannot read it; use that one, or set run_dir to a new folder"
        )


def refuse_other_recipe(
    root: Path, recipe: Mapping[str, Any], *, may_change: Callable[[str], bool]
) -> None:
    """Check that the directory is this recipe's, or nobody's. Writes nothing.

    Args:
        root: Run directory.
        recipe: The resolved recipe as JSON values.
        may_change: Tells of a dotted key whether it may differ from the recorded one (for
            example ``iterations``, which may be raised later).

    Raises:
        RunError: The directory was made by another recipe (the differing keys are named), or
            it holds something that is no run.
    """
    path = root / RECIPE
    if path.exists():
        if read_plan(root).recipe == text_digest(yaml_text(recipe)):
            return  # by the very recipe that is to be written, so a damaged one is mended
        before, now = _flatten(read_recipe(root)), _flatten(recipe)
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
                f"{root} was made by another recipe ({shown}"
                f"{'; ...' if len(changed) > 5 else ''}); set run_dir to a new folder"
            )
    elif root.exists():
        names = sorted(path.name for path in root.iterdir())
        # What a killed first write of the recipe left behind is no stranger.
        ours = (".lock", PLAN)
        strangers = [n for n in names if n not in ours and not n.startswith(TEMPORARY_PREFIX)]
        if strangers:
            raise RunError(
                f"{root} is not empty and holds no run (found {strangers[0]}); "
                "set run_dir to a new folder"
            )


def write_plan(root: Path, plan: StoredPlan, recipe: Mapping[str, Any]) -> None:
    """Write what a run is opened with; the recipe comes last: with it the directory is a run."""
    kept = plan.model_copy(update={"recipe": text_digest(yaml_text(recipe))})
    write_sealed(root / PLAN, kept.model_dump(mode="json"))
    write_yaml(root / RECIPE, recipe)


def read_recipe(root: Path) -> dict[str, Any]:
    """The resolved recipe that a run was opened with, as plain values.

    Raises:
        RunError: It is damaged, or was changed by hand.
    """
    path, written = root / RECIPE, read_plan(root).recipe
    if written is not None and digest(path) != written:
        raise RunError(
            f"{path} is damaged, or was changed by hand: it is not the recipe that the run was "
            "opened with; run that recipe again, which writes it anew"
        )
    return read_yaml(path)


def text_digest(text: str) -> str:
    """`digest` of a file that holds a text."""
    return hashlib.blake2b(text.encode(), digest_size=32).hexdigest()


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
