"""The pair step: the pairs of an iteration, from its score matrix."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cream.loop.calibration import calibration_of
from cream.loop.context import Context, Phase
from cream.loop.pairing import make_pairs, outcome_in_words, read_matrix
from cream.loop.shards import stopwatch
from cream.runs.store import StageRecord

NO_PAIRS = {"objective", "prompts"}
"""Parts that decide no pair."""


def _live(summary: Mapping[str, Any]) -> dict[str, float]:
    measured = summary["consistency"]
    return {"consistency/rate": measured["rate"]} if measured else {}


def pair_step(context: Context, phase: Phase) -> StageRecord:
    """Pairs of an iteration or its draft, from its score matrix."""
    matrix_stage = context.run.finished(f"{phase.folder}/matrix")
    t, parts = phase.t, phase.parts
    # Left out where it is None, so that runs made before it existed keep their fingerprints.
    without = NO_PAIRS if parts.others else NO_PAIRS | {"others"}
    calibration = calibration_of(context.run, context.parts(1))
    counts = {} if calibration is None else {"calibration": asdict(calibration)}
    report = context.recipe.scoring.report_consistency
    stage = context.stage(
        f"{phase.folder}/pair",
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
    context.progress.start(f"{phase.label}: pair", 1, "step")
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
    record = stage.finish(summary, seconds())
    context.progress.advance(1, _live(summary))
    context.progress.finish(outcome_in_words(summary))
    return record
