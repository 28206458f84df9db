"""Consistency of the pair that is trained on, instead of the average over all orders.

(tau + 1) / 2 is the share of *all* N(N-1)/2 orders that two rankings have in common, but only best
against worst is trained on, and that pair is the easiest to order: at C = 0.73 two Gaussian raters
agree on the best and worst of N = 5 with probability 0.90. So (tau + 1) / 2 over-smooths.

Two remedies: what two Gaussian raters with the observed tau would do (`best_worst_agreement`, no
witness needed for the single pair), and what a witness says about the very pair, turned into a
probability by counts from pairs whose truth is known (`calibrated_consistency`).

Source: neither is in arXiv:2410.12735; derivations in the docstrings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from jaxtyping import Float64, Int8, Int64

from cream.algorithms.rewards import Reward
from cream.algorithms.statistics import Absent, Interval, wilson_interval
from cream.errors import DataError

_erf = np.vectorize(math.erf, otypes=[np.float64])


def normal_correlation(tau: Float64[np.ndarray, " item"]) -> Float64[np.ndarray, " item"]:
    """Correlation rho of two jointly Gaussian raters whose Kendall correlation is tau.

    Source:
        Greiner's relation, tau = (2 / pi) arcsin(rho), so rho = sin(pi tau / 2).
    """
    return np.sin(np.pi * tau / 2)


def best_worst_agreement(
    tau: Float64[np.ndarray, " prompt"], members: Int64[np.ndarray, " prompt"]
) -> Float64[np.ndarray, " prompt"]:
    """Probability that rater 2 orders rater 1's best and worst of n members as rater 1 does.

    With rater 2 = rho * rater 1 + sqrt(1 - rho^2) * independent noise, the second rater's gap is
    rho * R + sqrt(2 (1 - rho^2)) * z, where R is the range of n standard normals and z is standard
    normal. Hence P = E_R[Phi(rho R / sqrt(2 (1 - rho^2)))]. For n = 2 this is (1 + tau) / 2.

    Args:
        tau: Kendall correlation of the raters, in [-1, 1]. Use an averaged or shrunken one: the
            tau of a single group is too noisy, and at +-1 in many groups by chance.
        members: Members of each group, >= 2.

    Raises:
        DataError: tau is outside [-1, 1] or NaN, or a group has fewer than two members.

    """
    if not (np.abs(tau) <= 1).all() or (members < 2).any():
        raise DataError("best_worst_agreement needs tau in [-1, 1] and groups of two or more.")
    agreement = np.empty(len(tau))
    for size in np.unique(members).tolist():
        prompts = np.flatnonzero(members == size)
        distinct_tau, index = np.unique(tau[prompts], return_inverse=True)
        agreement[prompts] = _agreement_of_size(distinct_tau, size)[index]
    return agreement


def _agreement_of_size(tau: Float64[np.ndarray, " tau"], size: int) -> Float64[np.ndarray, " tau"]:
    ranges, probabilities = _range_distribution(size)
    rho = normal_correlation(tau)
    spread = np.sqrt(2) * np.cos(np.pi * tau / 2)  # sqrt(2 (1 - rho^2)), never 0 in floating point
    return _normal_cdf(rho[:, None] * ranges / spread[:, None]) @ probabilities


@lru_cache(maxsize=256)
def _range_distribution(
    size: int,
) -> tuple[Float64[np.ndarray, " node"], Float64[np.ndarray, " node"]]:
    """Nodes and probabilities of the range of ``size`` standard normals.

    Density at r: n (n - 1) * integral over the smallest value x of
    phi(x) phi(x + r) (Phi(x + r) - Phi(x))^(n - 2).
    """
    nodes, weights = np.polynomial.legendre.leggauss(96)
    ranges, weights = 7 * (nodes + 1), 7 * weights  # [0, 14]: beyond lies < 1e-20 for n <= 1000
    x, step = np.linspace(-10, 10, 401, retstep=True)
    upper = x + ranges[:, None]
    between = _normal_cdf(upper) - _normal_cdf(x)
    densities = np.exp(-(x**2 + upper**2) / 2) / (2 * np.pi) * between ** (size - 2)
    return ranges, weights * size * (size - 1) * densities.sum(axis=1) * float(step)


def _normal_cdf(x: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    return (1 + _erf(x / math.sqrt(2))) / 2


class WitnessVerdict(IntEnum):
    """What a witness says about the order of a pair."""

    AGREES = 0
    DISAGREES = 1
    TIED = 2
    """The witness's values differ by no more than its noise."""
    UNSCORED = 3
    """The witness has no value for one of the two."""


def witness_verdicts(
    witness: Reward,
    prompt: Int64[np.ndarray, " pair"],
    chosen: Int64[np.ndarray, " pair"],
    rejected: Int64[np.ndarray, " pair"],
) -> Int8[np.ndarray, " pair"]:
    """Ask a witness about pairs, given as prompt index and members; codes of `WitnessVerdict`."""
    gap = witness.values[prompt, chosen] - witness.values[prompt, rejected]
    tolerance = np.maximum(witness.noise[prompt, chosen], witness.noise[prompt, rejected])
    return np.select(
        [np.isnan(gap), gap > tolerance, gap < -tolerance],
        [WitnessVerdict.UNSCORED, WitnessVerdict.AGREES, WitnessVerdict.DISAGREES],
        WitnessVerdict.TIED,
    ).astype(np.int8)


def pair_agreement_rate(verdicts: Int8[np.ndarray, " pair"]) -> Interval | Absent:
    """Share of pairs on which the witness agrees, of those where it says something (Wilson)."""
    agrees = int((verdicts == WitnessVerdict.AGREES).sum())
    return wilson_interval(agrees, agrees + int((verdicts == WitnessVerdict.DISAGREES).sum()))


@dataclass(frozen=True, slots=True)
class Calibration:
    """How often pairs of known truth were right where the witness agreed and where it did not."""

    agree_right: int
    agree_total: int
    disagree_right: int
    disagree_total: int
    source: str
    """Where the counts come from (which pairs, which iteration): a C is worth what they are."""

    def __post_init__(self) -> None:
        agree = 0 <= self.agree_right <= self.agree_total
        if not (agree and 0 <= self.disagree_right <= self.disagree_total):
            raise DataError(
                f"calibration from {self.source}: right pairs must be between 0 and all pairs, "
                f"not {self.agree_right}/{self.agree_total} and "
                f"{self.disagree_right}/{self.disagree_total}."
            )


def calibrated_consistency(
    verdicts: Int8[np.ndarray, " pair"], calibration: Calibration
) -> Float64[np.ndarray, " pair"]:
    """C per pair: the probability that its order is right, given what the witness says.

    (right + 1) / (total + 2), the mean under a uniform prior, so no count gives certainty and no
    pairs give 1/2. Where the witness is tied or silent, both kinds of pairs are pooled.
    """
    c = calibration
    right, total = c.agree_right + c.disagree_right, c.agree_total + c.disagree_total
    return np.select(
        [verdicts == WitnessVerdict.AGREES, verdicts == WitnessVerdict.DISAGREES],
        [
            (c.agree_right + 1) / (c.agree_total + 2),
            (c.disagree_right + 1) / (c.disagree_total + 2),
        ],
        (right + 1) / (total + 2),
    )
