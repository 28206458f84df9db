"""The loop itself: the stages of the plan, one after another, each skipped where it exists.

Which stages there are and in what order is written in `cream.planner`; what one does, in the
function that `STEPS` names for its kind. Paper numbering: M0 is the seed model, M1 the model after
supervised fine-tuning, and iteration t turns M_t into M_{t+1}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cream.loop.context import Context
from cream.loop.data_steps import freeze_prompts, freeze_seed, freeze_seed_parts
from cream.loop.inference_steps import evaluate_step, matrix_step, sample_step, score_step
from cream.loop.pair_step import pair_step
from cream.loop.score_columns import score_column_step
from cream.loop.tracked import track
from cream.loop.training_steps import fine_tune_step, remove_unneeded, train_step
from cream.loop.transform_steps import score_examples_step, transform_step
from cream.records import StageKind, StageSpec
from cream.runs.store import StageRecord

STEPS: Mapping[StageKind, Callable[[Context, StageSpec], StageRecord]] = {
    "freeze_prompts": freeze_prompts,
    "freeze_seed": freeze_seed,
    "freeze_seed_parts": freeze_seed_parts,
    "evaluate": evaluate_step,
    "fine_tune": fine_tune_step,
    "sample": sample_step,
    "score": score_step,
    "verify": score_column_step,
    "mark": score_column_step,
    "text_score": score_column_step,
    "matrix": matrix_step,
    "pair": pair_step,
    "transform": transform_step,
    "score_examples": score_examples_step,
    "train": train_step,
}


def run_recipe(context: Context) -> None:
    """Run everything the recipe asks for that the run directory does not hold yet."""
    for t in range(context.recipe.iterations + 1):
        run_iteration(context, t)


def run_iteration(context: Context, t: int) -> None:
    """Iteration t: sample from M_t, score, pair, train M_{t+1}, evaluate it.

    Of t = 0, what comes before the loop: data, M0, M1, witnesses, calibration.
    """
    for spec in context.plan.at(t):
        run_stage(context, spec)
    remove_unneeded(context, t)
    context.trackers.close()


def run_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Make one stage, unless it is there; what it reads must be finished."""
    record = STEPS[spec.kind](context, spec)
    track(context, spec, record)
    return record


def sample_iteration(context: Context, t: int) -> StageRecord:
    """Completions of M_t, and of the other models whose completions the method pairs with them.

    One of these, the future model, is trained on the way.
    """
    specs = context.plan.at(t)
    last = max(place for place, spec in enumerate(specs) if spec.kind == "sample")
    own, *_ = [run_stage(context, spec) for spec in specs[: last + 1]]
    return own


def score_iteration(context: Context, t: int) -> StageRecord:
    """Fill the score matrix of iteration t: every model's column, other scores, then the join."""
    scores = ("score", "verify", "mark", "text_score", "matrix")
    *_, matrix = [
        run_stage(context, spec)
        for spec in context.plan.at(t)
        if spec.kind in scores and not spec.draft
    ]
    return matrix
