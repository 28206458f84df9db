"""Which figures of finished stages go to the trackers, beside the steps of training.

Two more stages with an x axis of their own: ``iterations`` (x is t) and ``models`` (x is the m of
M_m). Keys are those of the stages' summaries, inner ones joined by ``/``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cream.loop.context import Context
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
    "mean_gap",
    "mean_weight",
    "kl_to_seed_per_token",
    "kl_to_previous_per_token",
    "mean_completion_tokens",
)
"""Figures of an iteration worth a curve; those that it does not have are left out."""


def track_pairs(context: Context, t: int, paired: StageRecord) -> None:
    """Send the figures of iteration t's pairs; x is t."""
    found = {key: _leaf(paired.summary, key) for key in OF_PAIRS}
    context.trackers.point(ITERATIONS, t, {k: v for k, v in found.items() if v is not None})


def track_evaluation(context: Context, m: int, evaluated: StageRecord | None) -> None:
    """Send the greedy accuracy of M_m; x is m. Nothing without test data."""
    if evaluated is not None:
        right, total = evaluated.summary["greedy_right"], evaluated.summary["greedy_total"]
        context.trackers.point(MODELS, m, {"accuracy": right / total})


def _leaf(summary: Mapping[str, Any], key: str) -> float | None:
    value: Any = summary
    for part in key.split("/"):
        value = value.get(part) if isinstance(value, Mapping) else None
    return None if value is None else float(value)
