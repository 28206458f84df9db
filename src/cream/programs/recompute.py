"""Pairs of a finished run made again under other settings, from the score matrix alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cream.algorithms.pair_consistency import Calibration
from cream.errors import RunError
from cream.loop.pairing import calibration_of, make_pairs, read_matrix
from cream.pair_records import PairSummary
from cream.plan import CALIBRATION_MATRIX, is_calibrated
from cream.recipe import Recipe
from cream.recipe.load import apply_overrides, validate_recipe
from cream.recipe.parts import MethodParts
from cream.runs.plan import RECIPE, StoredPlan
from cream.runs.reader import RunReader
from cream.runs.store import Run, fingerprint

MAY_CHANGE = ("method", "scoring.report_consistency")
"""Settings that decide pairs; others would be ignored here and are refused."""


class RecomputedPairs(PairSummary):
    """What pairs made again are like, and where they are."""

    folder: str | None = None
    """Null for the pairs of the run itself."""


def recompute_pairs(
    source: Path, t: int, overrides: Sequence[str], out: Path | None
) -> RecomputedPairs:
    """Make the pairs of iteration t again; writes ``pairs.parquet`` and ``prompts.parquet``.

    Args:
        source: Run directory.
        t: Iteration.
        overrides: ``a.b=c`` changes of the method.
        out: Where to; by default ``<run>/iteration-<t>/pair-<fingerprint>``.

    Returns:
        The summary of the pairs, with their folder.

    Raises:
        RunError: No such run, its score matrix is unfinished or lacks a column of the method, or
            an override changes how a stored column was made.
        RecipeError: An override is wrong, or changes something that does not decide pairs.
    """
    run = RunReader(source)
    for override in overrides:
        key = override.partition("=")[0]
        if not any(key == name or key.startswith(f"{name}.") for name in MAY_CHANGE):
            raise RunError(
                f"--set {override}: pairs do not depend on {key}; only {', '.join(MAY_CHANGE)} may "
                "be set with --from"
            )
    stored_recipe, plan = run.recipe, run.plan
    recipe = validate_recipe(apply_overrides(run.values, overrides), source=str(source / RECIPE))
    _refuse_other_scorers(recipe, stored_recipe)
    if t not in plan.parts:
        raise RunError(
            f"{source} has no iteration {t}; its plan has {', '.join(map(str, plan.parts))}"
        )
    parts, first = plan.parts[t], plan.parts[1]
    if recipe.method != stored_recipe.method:  # else it may be one composed in Python
        parts, first = recipe.parts(t), recipe.parts(1)
    _refuse_other_groups(parts, plan.parts[t], recipe.method.name)
    if parts.pairing is None:
        raise RunError(
            f"method {recipe.method.name} weighs every sample and makes no pairs; name one that "
            "does, as in --set method=srlm"
        )
    report = recipe.scoring.report_consistency
    (pairing,) = run.planned("pair", t) or run.planned("advantage", t)
    matrix = read_matrix(
        Run(source).finished(pairing.inputs[0]), parts, t, report_consistency=report
    )
    key = fingerprint([parts.model_dump(mode="json"), report])[:8]
    folder = out or source / f"iteration-{t}" / f"pair-{key}"
    summary = make_pairs(
        folder,
        matrix,
        parts,
        t,
        seed=recipe.seed,
        report_consistency=report,
        calibration=_calibration(source, plan, first),
    )
    return RecomputedPairs(**summary.model_dump(), folder=str(folder))


def _calibration(source: Path, plan: StoredPlan, parts: MethodParts) -> Calibration | None:
    if not is_calibrated(parts):
        return None
    found = [spec for spec in plan.stages if spec.name == CALIBRATION_MATRIX]
    if not found:
        raise RunError(
            f"{source} holds no calibration, which this method reads; a run with `calibration` "
            "makes one (in a new run_dir)"
        )
    return calibration_of(Run(source).finished(found[0].name), parts)


def _refuse_other_scorers(recipe: Recipe, stored: Recipe) -> None:
    """Scores are read from the matrix; settings under which they were not made would be a lie."""
    before, now = stored.method.scorer, recipe.method.scorer
    if before is None or now is None or before.column != now.column or before == now:
        return
    raise RunError(
        f"--set {recipe.method.scorer_section}: the stored scores were made with other settings, "
        "and --from makes none; run the recipe with these in a new run_dir"
    )


def _refuse_other_groups(parts: MethodParts, stored: MethodParts, method: str) -> None:
    """Whose completions a group holds was decided when they were sampled."""
    if parts.others == stored.others:
        return
    others = stored.others
    held = ["M_t", *([others.past, others.future or ""] if others else [])]
    raise RunError(
        f"method {method} pairs completions of other models than this run holds (its prompts were "
        f"answered by {', '.join(held)}), and --from samples none; run the method in a new run_dir"
    )
