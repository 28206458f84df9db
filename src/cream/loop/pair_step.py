"""The pair step: the pairs of an iteration, from its score matrix."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from cream.loop.calibration import calibration_of
from cream.loop.context import Context
from cream.loop.pairing import make_pairs, outcome_in_words, read_matrix
from cream.loop.stage_runner import stopwatch
from cream.records import PairSummary, StageSpec
from cream.runs.store import StageRecord

NO_PAIRS = {"objective", "prompts", "transform"}
"""Parts that decide no pair."""


def _live(summary: PairSummary) -> dict[str, float]:
    return {"consistency/rate": summary.consistency.rate} if summary.consistency else {}


def pair_step(context: Context, spec: StageSpec) -> StageRecord:
    """Pairs of an iteration or its draft, from its score matrix."""
    matrix_name, *calibrations = spec.inputs
    matrix_stage = context.run.finished(matrix_name)
    t, parts = spec.t, context.plan.phase_parts(spec)
    # Left out where it is None, so that runs made before it existed keep their fingerprints.
    names = NO_PAIRS if parts.others else NO_PAIRS | {"others"}
    without: dict[str, Any] = dict.fromkeys(names, True)
    if parts.pairing.unanimous == "drop":
        without["pairing"] = {"unanimous"}
    calibration = None
    if calibrations:
        calibration = calibration_of(context.run.finished(calibrations[0]), context.plan.parts(1))
    counts = {} if calibration is None else {"calibration": asdict(calibration)}
    report = context.recipe.scoring.report_consistency
    stage = context.stage(
        spec,
        {
            "matrix": matrix_stage.fingerprint,
            "parts": parts.model_dump(mode="json", exclude=without),
            "report_consistency": report,
            **counts,
        },
    )
    done = stage.finished()
    if done is not None:
        return done
    stage.begin()
    context.progress.start(spec.label, 1, "step")
    with stopwatch() as seconds:
        matrix = read_matrix(matrix_stage, parts, t, report_consistency=report)
        summary = make_pairs(
            stage.folder,
            matrix,
            parts,
            t,
            seed=context.recipe.seed,
            report_consistency=report,
            calibration=calibration,
        )
    record = stage.finish(summary.as_json(), seconds())
    context.progress.advance(1, _live(summary))
    context.progress.finish(outcome_in_words(summary))
    return record
