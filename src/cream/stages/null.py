"""What a C would be if the models had nothing to do with each other, and without what they share.

Beside every C: see `cream.algorithms.null_consistency`. Decides nothing.
"""

from __future__ import annotations

import numpy as np

from cream.algorithms.consistency import consistency_rates
from cream.algorithms.null_consistency import (
    Rating,
    gaussian_null,
    permuted_null,
    residual_kendall,
    residuals,
)
from cream.algorithms.pair_consistency import best_worst_agreement
from cream.algorithms.ranking import RankAgreement
from cream.algorithms.statistics import Absent, bootstrap_mean
from cream.pair_records import NullConsistency, ResidualConsistency
from cream.recipe.parts import Agreement, TwoGaussian
from cream.recipe.witness import shared_terms
from cream.stages.layout import Layout

NOTHING_SHARED = "the two rankings share no model's log-probabilities, so C holds nothing of any"
CONSTANT = "the log-probability that both hold is the same for all completions of every prompt"
TIED = "what is left of one of the rankings is tied in every prompt"


def rates_of(spec: Agreement, found: RankAgreement) -> RankAgreement:
    """C_j of each prompt from the statistic."""
    # TopOrder is a rate already; the others are correlations in [-1, 1].
    return found if spec.statistic == "top_order" else consistency_rates(found)


def null_of(layout: Layout, spec: Agreement, generator: np.random.Generator) -> NullConsistency:
    """C of unrelated ratings, by permutation and for Gaussian ones."""
    held = shared_terms(spec.first, spec.second)
    first, second = layout.ratings(spec)
    if held is None and spec.statistic != "top_order":  # tau of unrelated rankings is 0
        return NullConsistency(estimate=0.5)

    def measured(one: Rating, other: Rating) -> RankAgreement:
        return rates_of(spec, layout.agreement(spec.statistic, one, other))

    permuted = permuted_null(first, second, layout.distinct, measured, generator)
    gaussian = Absent.NO_ITEMS
    if held is not None and spec.statistic == "kendall":
        gaussian = gaussian_null(first, second, layout.distinct)
    shared = None if held is None else held[0][0].model
    if isinstance(permuted, Absent):
        return NullConsistency(shared=shared, absent=str(permuted))
    return NullConsistency(
        estimate=permuted.estimate,
        low=permuted.low,
        high=permuted.high,
        n=permuted.num_items,
        shared=shared,
        gaussian=None if isinstance(gaussian, Absent) else gaussian,
        pair_level=_pair_level(layout, spec, permuted.estimate),
    )


def _pair_level(layout: Layout, spec: Agreement, rate: float) -> float | None:
    """C of best against worst of two Gaussian raters with the null's tau, mean over prompts."""
    members = layout.distinct.sum(axis=1)
    members = members[members >= 2]
    if not isinstance(spec.level, TwoGaussian) or not len(members):
        return None
    tau = np.full(len(members), 2 * rate - 1)
    return float(best_worst_agreement(tau, members).mean())


def residual_rates(layout: Layout, spec: Agreement) -> RankAgreement | None:
    """C_j per prompt of what the two rankings do not share; None if they share nothing."""
    if shared_terms(spec.first, spec.second) is None:
        return None
    return consistency_rates(residual_kendall(*layout.ratings(spec), layout.distinct))


def residual_of(
    layout: Layout, spec: Agreement, generator: np.random.Generator
) -> ResidualConsistency:
    """C by Kendall's tau of what the two rankings do not share, or why there is none."""
    found = residual_rates(layout, spec)
    if found is None:
        return ResidualConsistency(absent=NOTHING_SHARED)
    one, other = residuals(*layout.ratings(spec), layout.distinct)
    first, second = one.slope, other.slope
    if isinstance(first, Absent) or isinstance(second, Absent):
        return ResidualConsistency(absent=CONSTANT)
    rate = bootstrap_mean(found.values[found.defined], generator)
    if isinstance(rate, Absent):
        return ResidualConsistency(absent=TIED, first_slope=first, second_slope=second)
    return ResidualConsistency(
        estimate=rate.estimate,
        low=rate.low,
        high=rate.high,
        n=rate.num_items,
        first_slope=first,
        second_slope=second,
    )
