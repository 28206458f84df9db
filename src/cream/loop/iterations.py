"""The loop itself: M0 -> M1 by fine-tuning, then T iterations of M_t -> M_{t+1}.

Paper numbering: M0 is the seed model, M1 the model after supervised fine-tuning, and iteration t
turns M_t into M_{t+1}. This file only orders the steps; each step names its artifact in the run
directory and is skipped when that exists.
"""

from __future__ import annotations

from cream.loop.context import Context, Phase
from cream.loop.data_steps import freeze_data
from cream.loop.inference_steps import (
    evaluate_step,
    matrix_step,
    sample_step,
    score_step,
)
from cream.loop.pair_step import pair_step
from cream.loop.score_columns import needed_columns, score_column_steps
from cream.loop.tracked import track_evaluation, track_pairs
from cream.loop.training_steps import remove_unneeded, sft_step, train_step, witness_step
from cream.runs.store import StageRecord


def run_recipe(context: Context) -> None:
    """Run everything the recipe asks for that the run directory does not hold yet."""
    run_opening(context)
    for t in range(1, context.recipe.iterations + 1):
        run_iteration(context, t)


def run_opening(context: Context) -> None:
    """What comes before the iterations: data, M0, M1, witnesses, calibration."""
    freeze_data(context)
    track_evaluation(context, 0, evaluate_step(context, 0))
    sft_step(context)
    track_evaluation(context, 1, evaluate_step(context, 1))
    for name in context.recipe.witnesses:
        witness_step(context, name)
    calibrate(context)
    context.trackers.close()


def run_iteration(context: Context, t: int) -> None:
    """Iteration t: sample from M_t, score, pair, train M_{t+1}, evaluate it."""
    sample_iteration(context, t)
    score_iteration(context, t)
    track_pairs(context, t, pair_step(context, context.phase(t)))
    train_step(context, context.phase(t))
    track_evaluation(context, t + 1, evaluate_step(context, t + 1))
    remove_unneeded(context, t)
    context.trackers.close()


def sample_iteration(context: Context, t: int) -> StageRecord:
    """Completions of M_t, and of the other models whose completions the method pairs with them.

    One of these, the future model, is trained here, from the pairs of a draft of the iteration.
    """
    draft, final = context.draft(t), context.phase(t)
    for samples in draft.sets if draft else ():
        sample_step(context, samples)
    if draft is not None:
        _score(context, draft)
        pair_step(context, draft)
        train_step(context, draft)
    own, *_ = [sample_step(context, samples) for samples in final.sets]
    return own


def score_iteration(context: Context, t: int) -> StageRecord:
    """Fill the score matrix of iteration t: every model's column, other scores, then the join."""
    return _score(context, context.phase(t))


def _score(context: Context, phase: Phase) -> StageRecord:
    models = context.columns(phase.t)
    for samples in phase.sets:
        for model in models:
            score_step(context, samples, model)
        score_column_steps(context, phase.t, samples)
    scores = needed_columns(context, phase.t)
    return matrix_step(context, phase.folder, phase.sets, models, scores)


def calibrate(context: Context) -> None:
    """Answers of M1 to the seed prompts that no model saw, scored under every model there is."""
    if context.recipe.calibration is None:
        return
    samples, models = context.calibration_set(), ("M1", "M0", *context.recipe.witnesses)
    sample_step(context, samples)
    for model in models:
        score_step(context, samples, model)
    matrix_step(context, samples.folder, [samples], models, {})
