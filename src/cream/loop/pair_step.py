"""The pair step: the pairs of an iteration, from its score matrix."""

from __future__ import annotations

from dataclasses import asdict

from cream.loop.calibration import calibration_of
from cream.loop.context import Context
from cream.loop.pairing import make_pairs, outcome_in_words, read_matrix
from cream.loop.shards import stopwatch
from cream.runs.store import StageRecord


def pair_step(context: Context, t: int) -> StageRecord:
    """Pairs of iteration t, from its score matrix."""
    matrix_stage = context.run.finished(f"iteration-{t}/matrix")
    parts = context.parts(t)
    calibration = calibration_of(context.run, context.parts(1))
    counts = {} if calibration is None else {"calibration": asdict(calibration)}
    report = context.recipe.scoring.report_consistency
    stage = context.stage(
        f"iteration-{t}/pair",
        {
            "matrix": matrix_stage.fingerprint,
            "parts": parts.model_dump(mode="json", exclude={"objective", "prompts"}),
            "report_consistency": report,
            **counts,
        },
    )
    done = stage.finished()
    if done is not None:
        return done
    stage.begin()
    context.progress.start(f"iteration {t}: pair", 1, "step")
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
    context.progress.advance(1)
    record = stage.finish(summary, seconds())
    context.progress.finish(outcome_in_words(summary))
    return record
