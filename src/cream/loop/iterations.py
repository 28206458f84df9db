"""The loop itself: the stages of the plan, one after another, each skipped where it exists.

Which stages there are and in what order is written in `cream.planner`; what one does, in the
function that `STAGES` names for its kind. Paper numbering: M0 is the seed model, M1 the model after
supervised fine-tuning, and iteration t turns M_t into M_{t+1}.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cream.loop.advantage_stages import advantage_stage
from cream.loop.context import Context
from cream.loop.data_stages import freeze_prompts, freeze_seed, freeze_seed_parts
from cream.loop.edit_stages import edit_stage
from cream.loop.inference_stages import (
    evaluate_stage,
    sample_stage,
    score_stage,
    score_tokens_stage,
)
from cream.loop.matrix_stages import matrix_stage, pair_stage
from cream.loop.score_columns import score_column_stage
from cream.loop.token_reward_stages import token_head_stage
from cream.loop.training_stages import fine_tune_stage, remove_unneeded, train_stage
from cream.loop.transform_stages import score_examples_stage, transform_stage
from cream.pair_records import PairSummary
from cream.records import AdvantageSummary, EvaluateSummary, StageKind, StageSpec
from cream.runs.store import StageRecord

ITERATIONS = "iterations"
MODELS = "models"
OF_PAIRS = (
    "consistency/rate",
    "consistency/low",
    "consistency/high",
    "consistency/tau_mean",
    "consistency_in_loss",
    "tally/parts/paired",
    "pair_accuracy/accuracy",
    "chosen_right/share",
    "mean_gap",
    "mean_weight",
    "kl_to_seed_per_token",
    "kl_to_previous_per_token",
    "mean_completion_tokens",
)
"""Figures of an iteration worth a curve; those that it does not have are left out."""
OF_SAMPLES = (
    "mean_reward",
    "right/share",
    "reward_order/share",
    "tally/parts/trained",
    "tally/parts/no_variance",
    "entropy",
    "vote_share",
    "mean_completion_tokens",
    "behaviour_gap",
    "kl_to_seed_per_token",
    "kl_to_previous_per_token",
)
"""The same of an iteration without pairs."""


def track(context: Context, spec: StageSpec, record: StageRecord) -> None:
    """Send the figures of a finished stage that are worth a curve, if it has any.

    Of the pairs of an iteration x is t; of the greedy accuracy of M_m it is m.
    """
    if spec.kind == "pair" and not spec.branch:
        summary = PairSummary.read(record.summary, spec.name).as_json()
        found = {key: _leaf(summary, key) for key in OF_PAIRS}
        told = {key: value for key, value in found.items() if value is not None}
        context.trackers.point(ITERATIONS, spec.t, told)
    if spec.kind == "advantage":
        weighed = AdvantageSummary.read(record.summary, spec.name).as_json()
        found = {key: _leaf(weighed, key) for key in OF_SAMPLES}
        told = {key: value for key, value in found.items() if value is not None}
        context.trackers.point(ITERATIONS, spec.t, told)
    if spec.kind == "evaluate":
        answers = EvaluateSummary.read(record.summary, spec.name)
        m = context.plan.measured().index(str(spec.model))
        accuracy = answers.greedy_right / answers.greedy_total
        context.trackers.point(MODELS, m, {"accuracy": accuracy})


def _leaf(summary: Mapping[str, Any], key: str) -> float | None:
    value: Any = summary
    for part in key.split("/"):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else float(value)


STAGES: Mapping[StageKind, Callable[[Context, StageSpec], StageRecord]] = {
    "freeze_prompts": freeze_prompts,
    "freeze_seed": freeze_seed,
    "freeze_seed_parts": freeze_seed_parts,
    "evaluate": evaluate_stage,
    "evaluate_goal": evaluate_stage,
    "fine_tune": fine_tune_stage,
    "sample": sample_stage,
    "edit": edit_stage,
    "score": score_stage,
    "verify": score_column_stage,
    "mark": score_column_stage,
    "text_score": score_column_stage,
    "answer": score_column_stage,
    "certainty": score_column_stage,
    "token_reward": score_column_stage,
    "token_head": token_head_stage,
    "segment": score_column_stage,
    "matrix": matrix_stage,
    "pair": pair_stage,
    "advantage": advantage_stage,
    "score_tokens": score_tokens_stage,
    "transform": transform_stage,
    "score_examples": score_examples_stage,
    "train": train_stage,
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
    record = STAGES[spec.kind](context, spec)
    track(context, spec, record)
    return record


def sample_iteration(context: Context, t: int) -> StageRecord:
    """Completions of M_t, and of the other models whose completions the method pairs with them.

    One of these, the future model, is trained on the way.
    """
    specs = [spec for spec in context.plan.at(t) if spec.learner is None]
    last = max(place for place, spec in enumerate(specs) if spec.kind == "sample")
    own, *_ = [run_stage(context, spec) for spec in specs[: last + 1]]
    return own


def score_iteration(context: Context, t: int) -> StageRecord:
    """Fill the score matrix of iteration t: every model's column, other scores, then the join."""
    before = ("freeze_prompts", "freeze_seed", "freeze_seed_parts", "sample")
    specs = [spec for spec in context.plan.at(t) if not spec.branch and spec.kind not in before]
    last = next(place for place, spec in enumerate(specs) if spec.kind == "matrix")
    *_, matrix = [run_stage(context, spec) for spec in specs[: last + 1]]
    return matrix
