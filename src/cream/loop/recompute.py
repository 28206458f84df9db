"""Pairs of a finished run made again under other settings, from the score matrix alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cream.errors import RunError
from cream.loop.pairing import make_pairs, read_matrix
from cream.methods import method_parts
from cream.recipe.load import apply_overrides, validate_recipe
from cream.runs.files import read_yaml
from cream.runs.store import RECIPE, Run, fingerprint

MAY_CHANGE = ("method", "scoring.report_consistency")
"""Settings that decide pairs; others would be ignored here and are refused."""


def recompute_pairs(
    source: Path, t: int, overrides: Sequence[str], out: Path | None
) -> dict[str, Any]:
    """Make the pairs of iteration t again; writes ``pairs.parquet`` and ``prompts.parquet``.

    Args:
        source: Run directory.
        t: Iteration.
        overrides: ``a.b=c`` changes of the method.
        out: Where to; by default ``<run>/iteration-<t>/pair-<fingerprint>``.

    Returns:
        The summary of the pairs, with their folder as ``folder``.

    Raises:
        RunError: No such run, its score matrix is unfinished or lacks a column of the method.
        RecipeError: An override is wrong, or changes something that does not decide pairs.
    """
    run = Run(source)
    if not (source / RECIPE).exists():
        raise RunError(f"{source} holds no run (no {RECIPE})")
    for override in overrides:
        key = override.partition("=")[0]
        if not any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE):
            raise RunError(
                f"--set {override}: pairs do not depend on {key}; only {', '.join(MAY_CHANGE)} may "
                "be set with --from"
            )
    values = apply_overrides(read_yaml(source / RECIPE), overrides)
    recipe = validate_recipe(values, source=str(source / RECIPE))
    parts = method_parts(recipe.method, t)
    report = recipe.scoring.report_consistency
    matrix = read_matrix(run.finished(f"iteration-{t}/matrix"), parts, t, report_consistency=report)
    key = fingerprint([parts.model_dump(mode="json"), report])[:8]
    folder = out or source / f"iteration-{t}" / f"pair-{key}"
    summary = make_pairs(folder, matrix, parts, t, seed=recipe.seed, report_consistency=report)
    return {"folder": str(folder), **summary}
