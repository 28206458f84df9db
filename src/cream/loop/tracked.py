"""Which figures of finished stages go to the trackers, beside the steps of training.

Two more stages with an x axis of their own: ``iterations`` (x is t) and ``models`` (x is the m of
M_m). Keys are those of the stages' summaries, inner ones joined by ``/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cream.loop.context import Context
from cream.records import EvaluateSummary, PairSummary, StageSpec
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


def track(context: Context, spec: StageSpec, record: StageRecord) -> None:
    """Send the figures of a finished stage that are worth a curve, if it has any.

    Of the pairs of an iteration x is t; of the greedy accuracy of M_m it is m.
    """
    if spec.kind == "pair" and not spec.draft:
        summary = PairSummary.read(record.summary, spec.name).as_json()
        found = {key: _leaf(summary, key) for key in OF_PAIRS}
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
