"""What is reported beside C: whether it is right, and what became of the policy.

A model that hardly moves has C near 1 for that reason alone, so consistency is never shown without
accuracy against known answers, distance from the seed model, length, diversity and duplicates.
These numbers decide nothing: they read labels, which training must not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float64, Int8, Int64, Integer

from cream.algorithms.groups import Groups
from cream.algorithms.pair_consistency import WitnessVerdict
from cream.algorithms.statistics import (
    Absent,
    Interval,
    ReliabilityBin,
    auroc,
    reliability_table,
    wilson_interval,
)
from cream.errors import DataError
from cream.types import Tally


@dataclass(frozen=True, slots=True)
class PairAccuracy:
    """How often the reward's order of a pair is the true one, on pairs where that can be told."""

    share: Interval | Absent
    """Share of decidable pairs (one right, one wrong) whose chosen is the right one (Wilson)."""
    pairs: Tally
    """All pairs: right, wrong (both decidable), both_right, both_wrong, unverified."""


def pair_accuracy(
    chosen_correct: Float64[np.ndarray, " pair"], rejected_correct: Float64[np.ndarray, " pair"]
) -> PairAccuracy:
    """Compare pairs with a verifier's labels.

    Args:
        chosen_correct: 1 right, 0 wrong, NaN not verified.
        rejected_correct: The same of the rejected completion.

    Raises:
        DataError: a label is not 0, 1 or NaN.

    """
    right, wrong = decided(chosen_correct, rejected_correct)
    both_right = (chosen_correct == 1) & (rejected_correct == 1)
    both_wrong = (chosen_correct == 0) & (rejected_correct == 0)
    counts = {
        "right": int(right.sum()),
        "wrong": int(wrong.sum()),
        "both_right": int(both_right.sum()),
        "both_wrong": int(both_wrong.sum()),
        "unverified": int(np.isnan(chosen_correct + rejected_correct).sum()),
    }
    share = wilson_interval(counts["right"], counts["right"] + counts["wrong"])
    return PairAccuracy(share, Tally(len(chosen_correct), counts))


def witness_accuracy(
    verdicts: Int8[np.ndarray, " pair"],
    chosen_correct: Float64[np.ndarray, " pair"],
    rejected_correct: Float64[np.ndarray, " pair"],
) -> Mapping[WitnessVerdict, PairAccuracy]:
    """Accuracy of the pairs on which a witness agrees, disagrees, is tied, or is silent.

    A witness is worth listening to if pairs are right clearly more often where it agrees.
    """
    return {
        verdict: pair_accuracy(
            chosen_correct[verdicts == verdict], rejected_correct[verdicts == verdict]
        )
        for verdict in WitnessVerdict
    }


@dataclass(frozen=True, slots=True)
class ConsistencyValidity:
    """Whether C tells right pairs from wrong ones."""

    auroc: float | Absent
    """Of C for "the chosen is the right one", on decidable pairs; 1/2 is no information."""
    reliability: tuple[ReliabilityBin, ...]
    """C as a predicted probability against the share of right pairs."""
    num_decidable: int


def consistency_validity(
    consistency: Float64[np.ndarray, " pair"],
    chosen_correct: Float64[np.ndarray, " pair"],
    rejected_correct: Float64[np.ndarray, " pair"],
    *,
    num_bins: int = 10,
) -> ConsistencyValidity:
    """Test C (of any level, unfloored) as a predictor of correctness, on decidable pairs.

    Raises:
        DataError: a label is not 0, 1 or NaN, or the C of a decidable pair is not in [0, 1].

    """
    right, wrong = decided(chosen_correct, rejected_correct)
    decidable = right | wrong
    predicted, correct = consistency[decidable], right[decidable]
    return ConsistencyValidity(
        auroc=auroc(predicted, correct),
        reliability=reliability_table(predicted, correct, num_bins=num_bins),
        num_decidable=int(decidable.sum()),
    )


def decided(
    chosen_correct: Float64[np.ndarray, " pair"], rejected_correct: Float64[np.ndarray, " pair"]
) -> tuple[Bool[np.ndarray, " pair"], Bool[np.ndarray, " pair"]]:
    """Pairs that are right and pairs that are wrong: exactly one completion of them is correct.

    Raises:
        DataError: a label is not 0, 1 or NaN.
    """
    for labels in (chosen_correct, rejected_correct):
        if not ((labels == 0) | (labels == 1) | np.isnan(labels)).all():
            raise DataError("verifier labels must be 0, 1 or NaN (not verified), not a grade.")
    right = (chosen_correct == 1) & (rejected_correct == 0)
    wrong = (chosen_correct == 0) & (rejected_correct == 1)
    return right, wrong


@dataclass(frozen=True, slots=True)
class CompletionProfile:
    """What the sampled completions look like."""

    duplicates: Interval | Absent
    """Share of completions that copy an earlier one of their group."""
    truncated: Interval | Absent
    """Share of completions cut off at the token limit."""
    mean_tokens: float | Absent
    num_completions: int


def completion_profile(
    groups: Groups,
    num_tokens: Int64[np.ndarray, "prompt member"],
    truncated: Bool[np.ndarray, "prompt member"],
) -> CompletionProfile:
    """Summarise all completions, duplicates included."""
    present = groups.present
    total = int(present.sum())
    return CompletionProfile(
        duplicates=wilson_interval(total - int(groups.distinct.sum()), total),
        truncated=wilson_interval(int((truncated & present).sum()), total),
        mean_tokens=float(num_tokens[present].mean()) if total else Absent.NO_ITEMS,
        num_completions=total,
    )


def distinct_ngrams(
    token_ids: Integer[np.ndarray, " token"],
    offsets: Int64[np.ndarray, " completion_plus_one"],
    *,
    n: int,
) -> float | Absent:
    """Distinct-n: different n-grams over all n-grams of all completions, in (0, 1].

    Falls with the amount of text, so compare equal numbers of completions only.

    Args:
        token_ids: All completions' ids, one after the other.
        offsets: Completion i holds ``token_ids[offsets[i]:offsets[i + 1]]``.
        n: Length of an n-gram, >= 1. No n-gram reaches over two completions.

    Source:
        Li et al. 2016, arXiv:1510.03055.

    """
    lengths = np.diff(offsets)
    whole = np.ones(len(token_ids), dtype=bool)
    for place in range(1, n):
        whole[(offsets[1:] - place)[lengths >= place]] = False  # too close to the end
    starts = np.flatnonzero(whole)
    if len(starts) == 0:
        return Absent.NO_ITEMS
    base = int(token_ids.max()) + 1
    grams = token_ids[starts].astype(np.int64)
    num_codes = base
    for place in range(1, n):
        if num_codes * base >= 2**63:  # number the grams found so far densely, to stay in int64
            found, grams = np.unique(grams, return_inverse=True)
            num_codes = len(found)
        grams = grams * base + token_ids[starts + place]
        num_codes *= base
    # Sorting is 50 times as fast as np.unique (NumPy 2.4 hashes) on ten million n-grams.
    return (1 + np.count_nonzero(np.diff(np.sort(grams)))) / len(starts)


@dataclass(frozen=True, slots=True)
class KLEstimate:
    """Monte-Carlo estimate of KL(policy || seed model) on the policy's own completions."""

    per_token: float
    """Sum of log-ratios over sum of tokens, nats."""
    per_completion: float
    """Mean log-ratio, nats; its standard error is ``standard_error``."""
    standard_error: float | Absent
    num_completions: int
    estimator: Literal["k1"] = "k1"


def kl_from_seed(
    policy_logps: Float64[np.ndarray, " completion"],
    seed_logps: Float64[np.ndarray, " completion"],
    num_tokens: Integer[np.ndarray, " completion"],
) -> KLEstimate | Absent:
    """Estimate KL(policy || seed) by k1, the mean of log pi(y|x) - log pi_0(y|x).

    Unbiased only if the completions are the policy's own at temperature 1 and top-p 1, duplicates
    included; under other sampling it is a mean log-ratio and may be negative. Completions that one
    of the models did not score are left out.

    Source:
        Estimator k1 of Schulman, "Approximating KL Divergence" (2020).
    """
    scored = ~np.isnan(policy_logps - seed_logps)
    ratios, tokens = (policy_logps - seed_logps)[scored], int(num_tokens[scored].sum())
    if tokens == 0:
        return Absent.NO_ITEMS
    several = len(ratios) > 1
    error = float(ratios.std(ddof=1) / len(ratios) ** 0.5) if several else Absent.NO_ITEMS
    return KLEstimate(float(ratios.sum() / tokens), float(ratios.mean()), error, len(ratios))


def margin_fixed_point(
    consistency: Float64[np.ndarray, " item"],
) -> Float64[np.ndarray, " item"]:
    """Margin at which a pair's gradient vanishes: logit(C), in units of beta * log-ratio gap.

    The CREAM loss softplus(-x) + (1 - C) x has derivative sigmoid(x) - C, so training drives the
    margin to logit(C): 0 at C = 1/2, unbounded at C = 1 (plain DPO).
    """
    with np.errstate(divide="ignore"):  # C = 0 and 1 are legitimate: the margin has no bound
        return np.log(consistency) - np.log1p(-consistency)


SPIKE_STEPS = 10
"""Steps before one whose loss can be a spike."""
SPIKE_NATS = 0.5
SPIKE_DEVIATIONS = 8.0
MARGIN_LIMIT = 17.0
"""Where 1 - sigmoid(margin) is below half a unit of float32: nothing is left to learn there."""
COLLAPSED_SHARE = 0.5
RUNAWAY_FACTOR = 2.0
RUNAWAY_TRUNCATED = 0.3


def course_warnings(metrics: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """What is wrong with the course of a training, by name, one sentence each.

    ``loss_spike``: a loss above the median of up to 20 steps before it by more than `SPIKE_NATS`
    and `SPIKE_DEVIATIONS` of their spread (1.4826 times the median deviation).
    ``margin_explosion``: a step whose mean margin is beyond `MARGIN_LIMIT`.
    """
    found = {}
    losses = [m.get("loss") for m in metrics]
    for step, loss in enumerate(losses, start=1):
        before = [value for value in losses[max(step - 21, 0) : step - 1] if value is not None]
        if loss is None or len(before) < SPIKE_STEPS:
            continue
        usual = median(before)
        spread = 1.4826 * median([abs(value - usual) for value in before])
        if loss - usual > max(SPIKE_NATS, SPIKE_DEVIATIONS * spread):
            found["loss_spike"] = (
                f"the loss rose to {loss:.3g} at step {step}, from {usual:.3g} in the steps "
                "before; lower the learning rate, or look at that step's examples"
            )
            break
    for step, one in enumerate(metrics, start=1):
        margin = one.get("rewards/margins")
        if margin is not None and abs(margin) > MARGIN_LIMIT:
            found["margin_explosion"] = (
                f"the mean margin was {margin:.3g} at step {step}, where the sigmoid is flat and "
                "pairs have no gradient left; lower beta or the learning rate"
            )
            break
    return found


@dataclass(frozen=True, slots=True)
class Sampled:
    """What an iteration sampled, in three figures."""

    distinct_share: float
    """Different completions per completion."""
    mean_tokens: float
    truncated_share: float


def drift_warnings(first: Sampled, now: Sampled) -> dict[str, str]:
    """What has become of the samples since the first iteration, by name, one sentence each.

    ``collapse_of_diversity``: the share of different completions fell below `COLLAPSED_SHARE` of
    what it was. ``runaway_length``: completions are `RUNAWAY_FACTOR` times as long, or the share of
    truncated ones rose by more than `RUNAWAY_TRUNCATED`.
    """
    found = {}
    if now.distinct_share < COLLAPSED_SHARE * first.distinct_share:
        found["collapse_of_diversity"] = (
            f"{100 * now.distinct_share:.0f} % of the completions differ, "
            f"{100 * first.distinct_share:.0f} % in iteration 1: the policy says ever the same"
        )
    longer = now.mean_tokens > RUNAWAY_FACTOR * first.mean_tokens
    if longer or now.truncated_share > first.truncated_share + RUNAWAY_TRUNCATED:
        found["runaway_length"] = (
            f"completions have {now.mean_tokens:.0f} tokens on average, "
            f"{100 * now.truncated_share:.0f} % truncated; in iteration 1 {first.mean_tokens:.0f} "
            f"and {100 * first.truncated_share:.0f} %"
        )
    return found
