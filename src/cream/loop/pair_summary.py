"""What the pair step records about an iteration: C, whether it is right, and what was sampled.

Figures that read verdicts are for people; nothing here decides a pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from cream.algorithms.diagnostics import (
    PairAccuracy,
    completion_profile,
    consistency_validity,
    kl_from_seed,
    margin_fixed_point,
    pair_accuracy,
)
from cream.algorithms.pair_consistency import WitnessVerdict
from cream.algorithms.statistics import Absent, Interval
from cream.recipe.parts import FROM_DATA, VERIFIER, Agreement, MethodParts
from cream.stages.layout import Layout
from cream.stages.pair import PairingResult
from cream.stages.witnesses import witness_quantities, witness_table
from cream.types import Origin, ScoreMatrix

Labels = Float64[np.ndarray, " pair"]


def summarise_pairs(parts: MethodParts, t: int, result: PairingResult, *, report: bool) -> Any:
    """Every figure of an iteration's pairs as JSON values; keys are in ``docs/glossary.md``."""
    matrix = result.layout.matrix
    compared = parts.agreement or (parts.reported if report else None)
    uses_c = parts.agreement is not None or parts.smoothing is not None
    in_loss = float(result.pairs.consistency.mean()) if uses_c else None
    fixed_point = None if in_loss is None else float(margin_fixed_point(np.array([in_loss]))[0])
    gap = result.pairs.chosen_reward - result.pairs.rejected_reward
    chosen, rejected = _verdicts(result)
    sampled = _sampled(result.layout)
    return {
        "reward": str(parts.reward),
        "compared": f"{compared.first}, {compared.second}" if compared else None,
        "compared_picks_pairs": compared.first == parts.reward if compared else None,
        "consistency": _consistency(result, compared),
        "consistency_in_loss": in_loss,
        "margin_fixed_point": _finite(fixed_point),
        "mean_gap": float(gap.mean()),
        "mean_weight": float(result.pairs.weight.mean()),
        "length_alpha": result.length_alpha,
        "tally": {"total": result.tally.total, "parts": dict(result.tally.parts)},
        "pair_tally": {"total": result.pair_tally.total, "parts": dict(result.pair_tally.parts)},
        "pair_accuracy": _accuracy(pair_accuracy(chosen, rejected)),
        "consistency_auroc": _auroc(_rate_of_pairs(result), chosen, rejected),
        "reliability": _reliability(_rate_of_pairs(result), chosen, rejected),
        "loss_consistency_auroc": _auroc(
            result.pairs.consistency if uses_c else None, chosen, rejected
        ),
        "witnesses": _witnesses(parts, compared, result),
        "chosen_from": _origins(matrix, result.pairs.chosen_ids),
        "rejected_from": _origins(matrix, result.pairs.rejected_ids),
        **_divergence(sampled.matrix, t),
        "noise": dict(matrix.noise),
        **_profile(sampled, result),
    }


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _present(value: float | Absent) -> float | None:
    return None if isinstance(value, Absent) else float(value)


def _consistency(result: PairingResult, compared: Agreement | None) -> dict[str, Any] | None:
    summary = result.consistency
    if summary is None or compared is None or not isinstance(summary.rate, Interval):
        return None
    below = summary.share_below_half
    # TopOrder is a rate; there is no correlation behind it.
    correlation = compared.statistic != "top_order"
    return {
        "rate": summary.rate.estimate,
        "low": summary.rate.low,
        "high": summary.rate.high,
        "n": summary.rate.num_items,
        "tau_mean": _present(summary.tau_mean) if correlation else None,
        "tau_std": _present(summary.tau_std) if correlation else None,
        "share_below_half": below.estimate if isinstance(below, Interval) else None,
        "undefined": {k: n for k, n in summary.prompts.parts.items() if k != "defined"},
    }


def _verdicts(result: PairingResult) -> tuple[Labels, Labels]:
    """The verifier's labels of chosen and rejected: 1 right, 0 wrong, NaN not verified."""
    labels, rows, m = (
        result.layout.matrix.scores[VERIFIER],
        result.layout.groups.rows,
        result.members,
    )
    return labels[rows[m.prompt, m.chosen]], labels[rows[m.prompt, m.rejected]]


def _accuracy(accuracy: PairAccuracy) -> dict[str, Any]:
    share = accuracy.share
    decided = isinstance(share, Interval)
    return {
        "n": share.num_items if decided else 0,
        "accuracy": share.estimate if decided else None,
        "low": share.low if decided else None,
        "high": share.high if decided else None,
        "counts": dict(accuracy.pairs.parts),
    }


def _rate_of_pairs(result: PairingResult) -> Labels | None:
    """C_j of each pair's prompt, NaN where undefined; None if nothing was compared."""
    return None if result.rates is None else result.rates[result.members.prompt]


def _auroc(predicted: Labels | None, chosen: Labels, rejected: Labels) -> float | None:
    if predicted is None:
        return None
    known = ~np.isnan(predicted)
    validity = consistency_validity(predicted[known], chosen[known], rejected[known])
    return _present(validity.auroc)


def _reliability(
    predicted: Labels | None, chosen: Labels, rejected: Labels
) -> list[dict[str, Any]] | None:
    if predicted is None:
        return None
    known = ~np.isnan(predicted)
    validity = consistency_validity(predicted[known], chosen[known], rejected[known], num_bins=5)
    return [
        {
            "predicted": _present(row.mean_predicted),
            "observed": row.observed.estimate if isinstance(row.observed, Interval) else None,
            "n": row.num_items,
        }
        for row in validity.reliability
    ]


def _witnesses(
    parts: MethodParts, compared: Agreement | None, result: PairingResult
) -> dict[str, Any]:
    """Per witness, how often best against worst is right where it agrees and where it does not."""
    matrix = result.layout.matrix
    asked = witness_quantities(matrix, parts.reward, [compared.second] if compared else [])
    table = witness_table(result.layout, result.best_worst, asked, matrix.scores[VERIFIER])
    return {str(witness): _witness(by_verdict) for witness, by_verdict in table.items()}


def _witness(by_verdict: Mapping[WitnessVerdict, PairAccuracy]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, verdict in (
        ("agree", WitnessVerdict.AGREES),
        ("disagree", WitnessVerdict.DISAGREES),
    ):
        accuracy = _accuracy(by_verdict[verdict])
        found |= {f"{name}_{key}": accuracy[key] for key in ("accuracy", "n", "low", "high")}
    silent = (by_verdict[WitnessVerdict.TIED], by_verdict[WitnessVerdict.UNSCORED])
    return {**found, "silent_n": sum(_accuracy(accuracy)["n"] for accuracy in silent)}


def _origins(matrix: ScoreMatrix, completion_ids: np.ndarray) -> dict[str, int] | None:
    """Completions by who made them; None if all are the policy's or that was not read."""
    if matrix.origin is None:
        return None
    made_by = dict(zip(matrix.completion_ids.tolist(), matrix.origin.tolist(), strict=True))
    return dict(sorted(Counter(made_by[key] for key in completion_ids.tolist()).items()))


def _sampled(layout: Layout) -> Layout:
    """The layout without completions of a data set or another model: what the policy says."""
    matrix = layout.matrix
    if matrix.origin is not None:
        kept = matrix.origin == Origin.POLICY
    elif FROM_DATA in matrix.scores:
        kept = matrix.scores[FROM_DATA] != 1
    else:
        return layout
    kept_before = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(kept)])
    sampled = replace(
        matrix,
        group_offsets=kept_before[matrix.group_offsets],
        completion_ids=matrix.completion_ids[kept],
        num_tokens=matrix.num_tokens[kept],
        truncated=matrix.truncated[kept],
        ids_hash=matrix.ids_hash[kept],
        logps={name: column[kept] for name, column in matrix.logps.items()},
        scores={name: column[kept] for name, column in matrix.scores.items()},
        labels={name: column[kept] for name, column in matrix.labels.items()},
        origin=None if matrix.origin is None else matrix.origin[kept],
    )
    return Layout(sampled, layout.rule, layout.reward)


def _divergence(matrix: ScoreMatrix, t: int) -> dict[str, float | None]:
    """Mean log-ratio per token of M_t against M0 and, if scored, against M_{t-1} (estimator k1)."""
    found: dict[str, float | None] = {}
    for key, model in (
        ("kl_to_seed_per_token", "M0"),
        ("kl_to_previous_per_token", f"M{t - 1}"),
    ):
        estimate = (
            kl_from_seed(matrix.logps[f"M{t}"], matrix.logps[model], matrix.num_tokens)
            if model in matrix.logps
            else Absent.NO_ITEMS
        )
        found[key] = None if isinstance(estimate, Absent) else estimate.per_token
    return found


def _profile(sampled: Layout, result: PairingResult) -> dict[str, Any]:
    layout, members = result.layout, result.members
    profile = completion_profile(sampled.groups, sampled.num_tokens, sampled.truncated)
    return {
        "completions": profile.num_completions,
        "distinct": int(sampled.groups.distinct.sum()),
        "truncated": int(sampled.matrix.truncated.sum()),
        "mean_completion_tokens": _present(profile.mean_tokens),
        "chosen_tokens": _mean_tokens(layout.num_tokens, members.prompt, members.chosen),
        "rejected_tokens": _mean_tokens(layout.num_tokens, members.prompt, members.rejected),
    }


def _mean_tokens(
    num_tokens: Int64[np.ndarray, "prompt member"],
    prompt: Int64[np.ndarray, " pair"],
    member: Int64[np.ndarray, " pair"],
) -> float:
    return float(num_tokens[prompt, member].mean())
