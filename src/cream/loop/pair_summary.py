"""What the pair stage records about an iteration: C, whether it is right, and what was sampled.

Figures that read verdicts are for people; nothing here decides a pair.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace

import numpy as np
from jaxtyping import Float64, Int64

from cream.algorithms import diagnostics
from cream.algorithms.diagnostics import (
    completion_profile,
    consistency_validity,
    kl_from_seed,
    margin_fixed_point,
    pair_accuracy,
)
from cream.algorithms.pair_consistency import Calibration, WitnessVerdict
from cream.algorithms.statistics import Absent, Interval, wilson_interval
from cream.pair_records import (
    CalibrationCounts,
    Consistency,
    Estimate,
    PairAccuracy,
    PairSummary,
    ReliabilityBin,
    WitnessAccuracy,
)
from cream.recipe.columns import FROM_DATA, VERIFIER
from cream.recipe.parts import Agreement, MethodParts
from cream.records import Share
from cream.stages.layout import Layout
from cream.stages.null import null_of, residual_of
from cream.stages.pair import PairingResult
from cream.stages.witnesses import (
    agreement_auroc,
    predictors,
    witness_quantities,
    witness_table,
)
from cream.types import Origin, ScoreMatrix

Labels = Float64[np.ndarray, " pair"]


def summarise_pairs(
    parts: MethodParts,
    t: int,
    result: PairingResult,
    *,
    report: bool,
    generator: np.random.Generator,
    calibration: Calibration | None = None,
) -> PairSummary:
    """Every figure of an iteration's pairs.

    Args:
        parts: What decided.
        t: Iteration.
        result: What was decided.
        report: Whether C was to be measured although the method uses none.
        generator: For the null of C and for bootstrap intervals.
        calibration: What a calibrated C rests on.
    """
    matrix = result.layout.matrix
    compared = parts.agreement or (parts.reported if report else None)
    trained = trained_with(parts, result.pairs.consistency)
    gap = result.pairs.chosen_reward - result.pairs.rejected_reward
    chosen, rejected = _verdicts(result)
    agreed = matrix.scores[VERIFIER][
        result.layout.groups.rows[result.agreed.prompt, result.agreed.chosen]
    ]
    sampled = _sampled(result.layout)
    policy = sampled.matrix
    members = result.members
    resamples = int(generator.integers(2**63))
    profile = completion_profile(sampled.groups, sampled.num_tokens, sampled.truncated)
    return PairSummary(
        reward=str(parts.reward),
        compared=f"{compared.first}, {compared.second}" if compared else None,
        compared_picks_pairs=compared.first == parts.reward if compared else None,
        consistency=_consistency(result, compared, generator),
        consistency_in_loss=None if trained is None else _mean(trained),
        margin_fixed_point=_fixed_point(parts, trained),
        mean_gap=_mean(gap),
        mean_weight=_mean(result.pairs.weight),
        length_alpha=result.length_alpha,
        tally=result.tally,
        pair_tally=result.pair_tally,
        pair_accuracy=_accuracy(pair_accuracy(chosen, rejected)),
        chosen_right=_chosen_right(np.concatenate([chosen, agreed])),
        consistency_auroc=_auroc(_rate_of_pairs(result), chosen, rejected),
        reliability=_reliability(_rate_of_pairs(result), chosen, rejected),
        loss_consistency_auroc=_auroc(trained, chosen, rejected),
        witnesses=_witnesses(parts, compared, result, resamples),
        predictors=dict(
            predictors(
                result.layout,
                result.best_worst,
                result.rates,
                compared,
                matrix.scores[VERIFIER],
                resamples,
            )
        ),
        chosen_from=_origins(matrix, result.pairs.chosen_ids),
        rejected_from=_origins(matrix, result.pairs.rejected_ids),
        kl_to_seed_per_token=_divergence(policy, parts.model_at(t), "M0"),
        kl_to_previous_per_token=_divergence(policy, parts.model_at(t), parts.model_at(t - 1)),
        noise=dict(matrix.noise),
        completions=profile.num_completions,
        distinct=int(sampled.groups.distinct.sum()),
        truncated=int(policy.truncated.sum()),
        mean_completion_tokens=_present(profile.mean_tokens),
        chosen_tokens=_mean_tokens(result.layout, members.prompt, members.chosen),
        rejected_tokens=_mean_tokens(result.layout, members.prompt, members.rejected),
        calibration=None if calibration is None else CalibrationCounts(**asdict(calibration)),
        unanimous=_chosen_right(agreed) if parts.paired_by.unanimous == "nll" else None,
    )


def trained_with(parts: MethodParts, stored: Labels) -> Labels | None:
    """C that each pair is trained with; None if every order is trusted fully."""
    trained = parts.objective.trained_consistency(stored)
    if trained is None or (trained is stored and not (parts.agreement or parts.smoothing)):
        return None
    return np.broadcast_to(np.asarray(trained, dtype=np.float64), stored.shape)


def _fixed_point(parts: MethodParts, trained: Labels | None) -> float | None:
    """Logit of the mean C; None where the loss has no such point, or at C = 1."""
    if trained is None or not len(trained) or not parts.objective.is_mixture:
        return None
    return _finite(float(margin_fixed_point(np.array([trained.mean()]))[0]))


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


def _finite(value: float | None) -> float | None:
    return value if value is not None and np.isfinite(value) else None


def _present(value: float | Absent) -> float | None:
    return None if isinstance(value, Absent) else float(value)


def _consistency(
    result: PairingResult, compared: Agreement | None, generator: np.random.Generator
) -> Consistency | None:
    summary = result.consistency
    if summary is None or compared is None or not isinstance(summary.rate, Interval):
        return None
    below = summary.share_below_half
    # TopOrder is a rate; there is no correlation behind it.
    correlation = compared.statistic != "top_order"
    return Consistency(
        rate=summary.rate.estimate,
        low=summary.rate.low,
        high=summary.rate.high,
        n=summary.rate.num_items,
        tau_mean=_present(summary.tau_mean) if correlation else None,
        tau_std=_present(summary.tau_std) if correlation else None,
        share_below_half=below.estimate if isinstance(below, Interval) else None,
        undefined={k: n for k, n in summary.prompts.parts.items() if k != "defined"},
        null=null_of(result.layout, compared, generator),
        residual=residual_of(result.layout, compared, generator),
    )


def _verdicts(result: PairingResult) -> tuple[Labels, Labels]:
    """The verifier's labels of chosen and rejected: 1 right, 0 wrong, NaN not verified."""
    labels, rows, m = (
        result.layout.matrix.scores[VERIFIER],
        result.layout.groups.rows,
        result.members,
    )
    return labels[rows[m.prompt, m.chosen]], labels[rows[m.prompt, m.rejected]]


def _accuracy(accuracy: diagnostics.PairAccuracy) -> PairAccuracy:
    share = _share(accuracy.share)
    return PairAccuracy(
        n=share.n,
        accuracy=share.share,
        low=share.low,
        high=share.high,
        counts=dict(accuracy.pairs.parts),
    )


def _chosen_right(chosen: Labels) -> Share:
    verified = chosen[~np.isnan(chosen)]
    return _share(wilson_interval(int(verified.sum()), len(verified)))


def _share(found: Interval | Absent) -> Share:
    if isinstance(found, Absent):
        return Share(share=None, low=None, high=None, n=0)
    return Share(share=found.estimate, low=found.low, high=found.high, n=found.num_items)


def _rate_of_pairs(result: PairingResult) -> Labels | None:
    """C_j of each pair's prompt, NaN where undefined; None if nothing was compared."""
    return None if result.rates is None else result.rates.values[result.members.prompt]


def _auroc(predicted: Labels | None, chosen: Labels, rejected: Labels) -> float | None:
    if predicted is None:
        return None
    known = ~np.isnan(predicted)
    validity = consistency_validity(predicted[known], chosen[known], rejected[known])
    return _present(validity.auroc)


def _reliability(
    predicted: Labels | None, chosen: Labels, rejected: Labels
) -> list[ReliabilityBin] | None:
    if predicted is None:
        return None
    known = ~np.isnan(predicted)
    validity = consistency_validity(predicted[known], chosen[known], rejected[known], num_bins=5)
    return [
        ReliabilityBin(
            predicted=_present(row.mean_predicted),
            observed=row.observed.estimate if isinstance(row.observed, Interval) else None,
            n=row.num_items,
        )
        for row in validity.reliability
    ]


def _witnesses(
    parts: MethodParts,
    compared: Agreement | None,
    result: PairingResult,
    seed: int,
) -> dict[str, WitnessAccuracy]:
    """Per witness, how often best against worst is right where it agrees and where it does not."""
    matrix = result.layout.matrix
    asked = witness_quantities(matrix, parts.reward, [compared.second] if compared else [])
    about = (result.layout, result.best_worst)
    correct = matrix.scores[VERIFIER]
    return {
        str(witness): _witness(by_verdict, agreement_auroc(*about, witness, correct, seed))
        for witness, by_verdict in witness_table(*about, asked, correct).items()
    }


def _witness(
    by_verdict: Mapping[WitnessVerdict, diagnostics.PairAccuracy], auroc: Estimate
) -> WitnessAccuracy:
    agree = _share(by_verdict[WitnessVerdict.AGREES].share)
    disagree = _share(by_verdict[WitnessVerdict.DISAGREES].share)
    silent = (by_verdict[WitnessVerdict.TIED], by_verdict[WitnessVerdict.UNSCORED])
    return WitnessAccuracy(
        agree_accuracy=agree.share,
        agree_n=agree.n,
        agree_low=agree.low,
        agree_high=agree.high,
        disagree_accuracy=disagree.share,
        disagree_n=disagree.n,
        disagree_low=disagree.low,
        disagree_high=disagree.high,
        silent_n=sum(_share(accuracy.share).n for accuracy in silent),
        auroc=auroc,
    )


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


def _divergence(matrix: ScoreMatrix, policy: str, model: str) -> float | None:
    """Mean log-ratio per token of a model against another, None if not scored (estimator k1)."""
    if model not in matrix.logps:
        return None
    estimate = kl_from_seed(matrix.logps[policy], matrix.logps[model], matrix.num_tokens)
    return None if isinstance(estimate, Absent) else estimate.per_token


def _mean_tokens(
    layout: Layout,
    prompt: Int64[np.ndarray, " pair"],
    member: Int64[np.ndarray, " pair"],
) -> float | None:
    return _mean(layout.num_tokens[prompt, member])
