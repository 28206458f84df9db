"""How far two rankings of one prompt's completions agree, for all prompts at once.

Each function compares two rewards member by member inside each group and returns one value per
prompt, or the reason why there is none. Everything is computed from *values*, with ties: ordinal
ranks broken by list position make equal scores look perfectly consistent (the reference code does
that; see `top_order` for its other fault).

All four statistics are functions of the signs of the pairwise differences alone; a difference
inside the dead zone (see `cream.algorithms.rewards`) has sign 0. With zero noise, `kendall_tau` and
`spearman` equal ``scipy.stats`` on any data, `weighted_tau` on untied data.

Source: Wang et al. 2024, arXiv:2410.12735 (Kendall; Spearman and TopOrder as ablations).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int8, Int64

from cream.algorithms.groups import equal_sizes
from cream.algorithms.rewards import Reward


class Definedness(IntEnum):
    """Whether two rankings of a prompt can be compared, and if not, why."""

    DEFINED = 0
    SINGLE = 1
    """Fewer than two members count (one completion, or all are duplicates of one)."""
    UNSCORED = 2
    """Two or more members count, but fewer than two are scored in both rankings."""
    FIRST_TIED = 3
    """All compared members are tied in the first ranking (or in both)."""
    SECOND_TIED = 4
    """All compared members are tied in the second ranking only."""
    SHARED_DECIDES = 5
    """The term that both ratings hold orders one of them alone (partial tau only)."""


@dataclass(frozen=True)
class RankAgreement:
    """Agreement of two rankings, per prompt."""

    values: Float64[np.ndarray, " prompt"]
    """NaN exactly where `definedness` is not ``DEFINED``. The range is that of the statistic."""
    definedness: Int8[np.ndarray, " prompt"]
    """Codes of `Definedness`."""
    members: Int64[np.ndarray, " prompt"]
    """How many members were compared (distinct, scored in both)."""

    @property
    def defined(self) -> Bool[np.ndarray, " prompt"]:
        """True where there is a value."""
        return self.definedness == Definedness.DEFINED


Signs = Float32[np.ndarray, "group member member"]
"""Sign of value i minus value j: +1, 0 (tied) or -1. float32 sums of signs are exact to 2**24."""


def kendall_tau(
    first: Reward, second: Reward, counted: Bool[np.ndarray, "prompt member"]
) -> RankAgreement:
    """Kendall's tau-b, in [-1, 1]: concordant minus discordant pairs, corrected for ties.

    A member scored in one ranking only is left out of the comparison.

    Source:
        Kendall 1945; tau-b as in ``scipy.stats.kendalltau``. arXiv:2410.12735 has no ties.
    """
    return _agreement(first, second, counted, _tau_b)


def spearman(
    first: Reward, second: Reward, counted: Bool[np.ndarray, "prompt member"]
) -> RankAgreement:
    """Spearman's rho, in [-1, 1]: Pearson correlation of average ranks.

    Source:
        Spearman 1904; as in ``scipy.stats.spearmanr``.
    """
    return _agreement(first, second, counted, _rank_correlation)


def weighted_tau(
    first: Reward, second: Reward, counted: Bool[np.ndarray, "prompt member"]
) -> RankAgreement:
    """Kendall's tau with additive hyperbolic weights, in [-1, 1]: exchanges near the top cost more.

    The pair of ranks r and s (0 is best) weighs 1/(r+1) + 1/(s+1); the mean of the tau weighted by
    the first ranking's ranks and by the second's. Tied members share their average rank, which
    treats both rankings alike; SciPy breaks such ties by the other ranking.

    Source:
        Vigna 2015, "A weighted correlation index for rankings with ties"; as in
        ``scipy.stats.weightedtau(rank=True)`` where nothing is tied.
    """
    return _agreement(first, second, counted, _weighted)


def top_order(
    first: Reward, second: Reward, counted: Bool[np.ndarray, "prompt member"]
) -> RankAgreement:
    """Whether both rankings have the same best and the same worst, in [0, 1]: one half each.

    Where several members are tied for a place, agreement is the overlap of the two sets (members in
    both over members in either), so that identical rankings always score 1. Unlike tau this is not
    centred on one half: of n members, unrelated rankings score 1/n.

    Source:
        arXiv:2410.12735, ablation TopOrder. The reference code compares the ranks of the first and
        of the last *response* instead, so equal best and worst can score 0 and different ones 1.
    """
    return _agreement(first, second, counted, _same_ends)


def by_position(reward: Reward, counted: Bool[np.ndarray, "prompt member"]) -> Reward:
    """Ordinal ranks in place of values: of equal values the later in the list is better.

    A group with an unscored completion has no ranks. Both are rules of the reference code, which
    are recorded in ``tests/golden/cream_reference.json``.
    """
    order = np.argsort(reward.values, axis=1, kind="stable")  # NaN comes last
    places = np.argsort(order, axis=1)
    complete = (reward.scored | ~counted).all(axis=1, keepdims=True)
    ranks: Float64[np.ndarray, "prompt member"] = np.where(reward.scored & complete, places, np.nan)
    return Reward(ranks, np.zeros_like(ranks))


def _agreement(
    first: Reward,
    second: Reward,
    counted: Bool[np.ndarray, "prompt member"],
    statistic: Callable[[Signs, Signs], Float64[np.ndarray, " group"]],
) -> RankAgreement:
    compared = counted & first.scored & second.scored
    members = compared.sum(axis=1)
    values = np.full(len(compared), np.nan)
    reason = np.full(len(compared), Definedness.UNSCORED, dtype=np.int8)
    reason[counted.sum(axis=1) < 2] = Definedness.SINGLE
    for prompts, columns in equal_sizes(compared):
        rows = prompts[:, None]
        signs_1 = _signs(first.values[rows, columns], first.noise[rows, columns])
        signs_2 = _signs(second.values[rows, columns], second.noise[rows, columns])
        varies_1, varies_2 = signs_1.any(axis=(1, 2)), signs_2.any(axis=(1, 2))
        reason[prompts] = np.select(
            [~varies_1, ~varies_2],
            [Definedness.FIRST_TIED, Definedness.SECOND_TIED],
            Definedness.DEFINED,
        )
        usable = varies_1 & varies_2
        values[prompts[usable]] = statistic(signs_1[usable], signs_2[usable])
    return RankAgreement(values, reason, members)


def _signs(
    values: Float64[np.ndarray, "group member"], noise: Float64[np.ndarray, "group member"]
) -> Signs:
    gaps = values[:, :, None] - values[:, None, :]
    tolerance = np.maximum(noise[:, :, None], noise[:, None, :])
    above = gaps > tolerance
    return above.astype(np.float32) - above.swapaxes(1, 2)


def _tau_b(first: Signs, second: Signs) -> Float64[np.ndarray, " group"]:
    return _weighted_ratio(first, second, np.float32(1))


def _rank_correlation(first: Signs, second: Signs) -> Float64[np.ndarray, " group"]:
    # A sum of signs is twice the average rank, centred: Pearson needs neither shift nor scale.
    x, y = first.sum(axis=2, dtype=np.float64), second.sum(axis=2, dtype=np.float64)
    return _ratio((x * y).sum(axis=1), (x * x).sum(axis=1), (y * y).sum(axis=1))


def _weighted(first: Signs, second: Signs) -> Float64[np.ndarray, " group"]:
    by_first = _weighted_ratio(first, second, _hyperbolic_weights(first))
    by_second = _weighted_ratio(first, second, _hyperbolic_weights(second))
    return (by_first + by_second) / 2


def _hyperbolic_weights(signs: Signs) -> Float64[np.ndarray, "group member member"]:
    size = signs.shape[1]
    rank_from_best = (size - 1 - signs.sum(axis=2, dtype=np.float64)) / 2
    weight = 1 / (rank_from_best + 1)
    return weight[:, :, None] + weight[:, None, :]


def _weighted_ratio(
    first: Signs, second: Signs, weights: Float64[np.ndarray, "group member member"] | np.float32
) -> Float64[np.ndarray, " group"]:
    weighted_1, weighted_2 = first * weights, second * weights
    return _ratio(
        np.einsum("gij,gij->g", weighted_1, second).astype(np.float64),
        np.einsum("gij,gij->g", weighted_1, first).astype(np.float64),
        np.einsum("gij,gij->g", weighted_2, second).astype(np.float64),
    )


def _ratio(
    cross: Float64[np.ndarray, " group"],
    first: Float64[np.ndarray, " group"],
    second: Float64[np.ndarray, " group"],
) -> Float64[np.ndarray, " group"]:
    return np.clip(cross / np.sqrt(first * second), -1.0, 1.0)  # rounding may leave [-1, 1]


def _same_ends(first: Signs, second: Signs) -> Float64[np.ndarray, " group"]:
    best = _overlap(first.min(axis=2) >= 0, second.min(axis=2) >= 0)
    worst = _overlap(first.max(axis=2) <= 0, second.max(axis=2) <= 0)
    return (best + worst) / 2


def _overlap(
    first: Bool[np.ndarray, "group member"], second: Bool[np.ndarray, "group member"]
) -> Float64[np.ndarray, " group"]:
    return (first & second).sum(axis=1) / (first | second).sum(axis=1)
