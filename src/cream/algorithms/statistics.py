"""Intervals, discrimination and calibration: the numbers that stand beside every result.

Plain functions on arrays of independent items (prompts, pairs). No item is dropped here: callers
say what counts, and a missing value (NaN) is an error. Where a number does not exist the reason is
returned in its place, never 0. SciPy is the reference in the tests, not a dependency.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from jaxtyping import Bool, Float64, Integer

from cream.algorithms.groups import chunks
from cream.errors import DataError


class Absent(StrEnum):
    """Why a number does not exist."""

    NO_ITEMS = "no_items"
    ONE_CLASS = "one_class"
    """All items are positive or all are negative, so nothing can be told apart."""
    NO_VARIATION = "no_variation"
    """Everything that would be compared is equal."""


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its confidence interval."""

    estimate: float
    low: float
    high: float
    num_items: int
    level: float = 0.95


def share_of(share: float, total: int, *, round_up: bool = False) -> int:
    """How many of `total` a share is, rounded down (or up), of the decimal number as written.

    ``int(0.29 * 100)`` is 28 and ``ceil(0.07 * 100)`` is 8, since no binary fraction is 0.29 or
    0.07: the shortest decimal that stands for the float is taken, and counted with exactly.
    """
    exact = Fraction(repr(float(share))) * total
    return math.ceil(exact) if round_up else math.floor(exact)


def wilson_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval | Absent:
    """Score interval of a proportion; sound for small counts and for shares near 0 and 1.

    Raises:
        DataError: not 0 <= successes <= trials.

    Source:
        Wilson 1927; without continuity correction.

    """
    if not 0 <= successes <= trials:
        raise DataError(f"a proportion needs 0 <= successes <= trials, not {successes}/{trials}.")
    if trials == 0:
        return Absent.NO_ITEMS
    z2 = NormalDist().inv_cdf((1 + level) / 2) ** 2
    share = successes / trials
    centre = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = (z2 * (share * (1 - share) / trials + z2 / (4 * trials**2))) ** 0.5 / (1 + z2 / trials)
    # At 0 and 1 the bound equals the share exactly; rounding must not push it past.
    low, high = max(0.0, min(centre - half, share)), min(1.0, max(centre + half, share))
    return Interval(share, low, high, trials, level)


def bootstrap_mean(
    values: Float64[np.ndarray, " item"],
    generator: np.random.Generator,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> Interval | Absent:
    """Percentile bootstrap interval of a mean, items resampled with replacement.

    Equal values are drawn together, as counts from a multinomial: the same distribution of
    resamples, and much less work for statistics with few values, such as tau of 8 completions.

    Raises:
        DataError: a value is NaN or infinite.

    Source:
        Efron 1979; percentile method.

    """
    _require_finite(values)
    if len(values) == 0:
        return Absent.NO_ITEMS
    distinct, counts = np.unique(values, return_counts=True)
    if 16 * len(distinct) <= len(values):
        drawn = generator.multinomial(len(values), counts / len(values), size=num_resamples)
        means = drawn @ distinct / len(values)
    else:
        means = np.empty(num_resamples)
        for part in chunks(num_resamples, len(values)):
            shape = (part.stop - part.start, len(values))
            draws = generator.integers(len(values), size=shape, dtype=np.int32)
            means[part] = values[draws].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(float(values.mean()), low, high, len(values), level)


def paired_difference(
    treatment: Float64[np.ndarray, " item"],
    control: Float64[np.ndarray, " item"],
    generator: np.random.Generator,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> Interval | Absent:
    """Bootstrap interval of mean(treatment - control) on the same items, in the same order.

    Pairing takes the difficulty of the items out of the interval, so it can be much narrower than
    the intervals of the two means suggest. Callers align the arrays by id.
    """
    difference = treatment - control
    return bootstrap_mean(difference, generator, num_resamples=num_resamples, level=level)


def auroc(
    scores: Float64[np.ndarray, " item"], positive: Bool[np.ndarray, " item"]
) -> float | Absent:
    """Probability that a positive item scores above a negative one, ties counting one half.

    Raises:
        DataError: a score is NaN or infinite.

    Source:
        Mann-Whitney U over the number of positive-negative pairs; average ranks for ties.

    """
    _require_finite(scores)
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if len(positive) == 0:
        return Absent.NO_ITEMS
    if num_positive == 0 or num_negative == 0:
        return Absent.ONE_CLASS
    _, index, counts = np.unique(scores, return_inverse=True, return_counts=True)
    average_rank = np.cumsum(counts) - (counts - 1) / 2
    u = average_rank[index][positive].sum() - num_positive * (num_positive + 1) / 2
    return float(u / (num_positive * num_negative))


def bootstrap_auroc(
    scores: Float64[np.ndarray, " item"],
    positive: Bool[np.ndarray, " item"],
    generator: np.random.Generator,
    *,
    clusters: Integer[np.ndarray, " item"] | None = None,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> Interval | Absent:
    """`auroc` with its percentile bootstrap interval; ``num_items`` counts items.

    Args:
        scores: What is to tell positive items from negative ones.
        positive: Which they are.
        generator: Source of the resamples.
        clusters: Which items are drawn together, by equal numbers >= 0, such as the pairs of one
            prompt; None: each item alone.
        num_resamples: Resamples. Those whose items are all of one class have no AUROC and are left
            out of the interval.
        level: Coverage.

    Raises:
        DataError: a score is NaN or infinite.
    """
    estimate = auroc(scores, positive)
    if isinstance(estimate, Absent):
        return estimate
    order = np.argsort(scores, kind="stable")
    drawn_as = (
        np.arange(len(scores)) if clusters is None else np.unique(clusters, return_inverse=True)[1]
    )
    drawn_as, is_positive = drawn_as[order], positive[order]
    starts = np.flatnonzero(np.diff(scores[order], prepend=-np.inf))
    num_clusters = int(drawn_as.max()) + 1
    found = np.empty(num_resamples)
    for part in chunks(num_resamples, len(scores)):
        size = part.stop - part.start
        times = generator.multinomial(num_clusters, np.full(num_clusters, 1 / num_clusters), size)
        weights = times[:, drawn_as].astype(np.float64)
        above = np.add.reduceat(weights * is_positive, starts, axis=1)
        below = np.add.reduceat(weights * ~is_positive, starts, axis=1)
        worse = np.cumsum(below, axis=1) - below / 2
        pairs = above.sum(axis=1) * below.sum(axis=1)
        with np.errstate(invalid="ignore"):
            found[part] = (above * worse).sum(axis=1) / pairs
    low, high = np.nanquantile(found, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(estimate, low, high, len(scores), level)


@dataclass(frozen=True, slots=True)
class ReliabilityBin:
    """Items whose predicted probability lies in ``[low, high)`` (the last bin includes 1)."""

    low: float
    high: float
    num_items: int
    mean_predicted: float | Absent
    observed: Interval | Absent
    """Share of positive items, with its Wilson interval."""


def reliability_table(
    predicted: Float64[np.ndarray, " item"],
    positive: Bool[np.ndarray, " item"],
    *,
    num_bins: int = 10,
) -> tuple[ReliabilityBin, ...]:
    """Compare predicted probabilities with what happened, in bins of equal width over [0, 1].

    Raises:
        DataError: a prediction is not in [0, 1].

    """
    _require_finite(predicted)
    if ((predicted < 0) | (predicted > 1)).any():
        raise DataError("a reliability table needs predictions in [0, 1].")
    edges = np.linspace(0, 1, num_bins + 1)
    index = np.clip(np.searchsorted(edges, predicted, side="right") - 1, 0, num_bins - 1)
    counts = np.bincount(index, minlength=num_bins).tolist()
    sums = np.bincount(index, weights=predicted, minlength=num_bins).tolist()
    hits = np.bincount(index[positive], minlength=num_bins).tolist()
    return tuple(
        ReliabilityBin(
            low=float(edges[b]),
            high=float(edges[b + 1]),
            num_items=counts[b],
            mean_predicted=sums[b] / counts[b] if counts[b] else Absent.NO_ITEMS,
            observed=wilson_interval(hits[b], counts[b]),
        )
        for b in range(num_bins)
    )


def pass_at_k(
    num_correct: Integer[np.ndarray, " prompt"],
    num_completions: Integer[np.ndarray, " prompt"],
    *,
    k: int,
) -> Float64[np.ndarray, " prompt"]:
    """Probability that at least one of k completions is right, per prompt, without bias.

    1 - C(n - c, k) / C(n, k) for c right ones of n; the plug-in 1 - (1 - c/n)^k is biased low.

    Raises:
        DataError: k < 1, a prompt has fewer than k completions, or c is not in [0, n].

    Source:
        Chen et al. 2021, arXiv:2107.03374, eq. 1.

    """
    _require_counts(num_correct, num_completions, at_least=max(k, 1))
    if k < 1:
        raise DataError(f"pass@k needs k >= 1, not {k}.")
    all_wrong = np.ones(len(num_correct))
    for drawn in range(k):
        wrong_left = np.maximum(num_completions - num_correct - drawn, 0)
        all_wrong *= wrong_left / (num_completions - drawn)
    return 1 - all_wrong


def mean_at_k(
    num_correct: Integer[np.ndarray, " prompt"], num_completions: Integer[np.ndarray, " prompt"]
) -> Float64[np.ndarray, " prompt"]:
    """Share of right completions, per prompt: mean@k for its k completions, and pass@1.

    Raises:
        DataError: a prompt has no completions, or a count is not in [0, k].

    """
    _require_counts(num_correct, num_completions, at_least=1)
    return num_correct / num_completions


def _require_counts(
    num_correct: Integer[np.ndarray, " prompt"],
    num_completions: Integer[np.ndarray, " prompt"],
    at_least: int,
) -> None:
    if (num_completions < at_least).any():
        index = int(np.argmax(num_completions < at_least))
        raise DataError(
            f"{at_least} completions per prompt are needed, but prompt {index} has "
            f"{int(num_completions[index])}; sample more or ask for a smaller k."
        )
    if ((num_correct < 0) | (num_correct > num_completions)).any():
        raise DataError("right completions must be between 0 and all completions of a prompt.")


def _require_finite(values: Float64[np.ndarray, " item"]) -> None:
    if not np.isfinite(values).all():
        bad = int((~np.isfinite(values)).sum())
        raise DataError(
            f"{bad} of {len(values)} values are NaN or infinite; select the defined ones first."
        )
