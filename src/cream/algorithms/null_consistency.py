"""C of ratings that have nothing to do with each other, and C of what they do not share.

From t = 2 on both rankings are of ratings that hold the same term: J = log pi_t - log pi_0 and
K = log pi_{t-1} - log pi_0 share -log pi_0. If the three log-probabilities of a completion are
unrelated (pure noise), J and K still agree: with equal variances C is 2/3. So a C is read against
its value under that null (`gaussian_null`, `permuted_null`), or taken of what is left of J and K
without the shared term (`without_shared`), whose C is 1/2 under the null.

Not a fact about one statistic: whatever is computed from J and K alone sees the shared term.

Source: ours; the Gaussian value by Greiner's relation. Derivations in ``docs/concepts/traps.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64

from cream.algorithms.ranking import Definedness, RankAgreement, kendall_tau
from cream.algorithms.rewards import Reward
from cream.algorithms.statistics import Absent, Interval

Values = Float64[np.ndarray, "prompt member"]
Counted = Bool[np.ndarray, "prompt member"]


@dataclass(frozen=True)
class Rating:
    """A reward as the sum of a term that another rating holds too, and of the rest."""

    reward: Reward
    shared: Reward
    """The shared term as it stands in the reward, and in its unit: -log pi_0 of an implicit one."""

    @property
    def own(self) -> Values:
        """The rest: log pi_t of an implicit reward."""
        return self.reward.values - self.shared.values


def gaussian_null(first: Rating, second: Rating, counted: Counted) -> float | Absent:
    """C = (tau + 1) / 2 of two ratings of which only the shared term is related, if Gaussian.

    With x and y the shared terms and a and b the rests, a, b and (x, y) unrelated, the correlation
    of the ratings is rho = cov(x, y) / sqrt((var a + var x) (var b + var y)), and
    C = 1/2 + arcsin(rho) / pi. For J = a - c, K = b - c: cov(x, y) = var c. Variances are those
    within prompts, pooled over all prompts (sums of squares over sums of n - 1).

    Exact for Gaussian ratings whose variances are the same in every prompt, whatever their number.

    Returns:
        C in [0, 1], or why there is none: a rating has no variance.

    Source:
        Greiner's relation, tau = (2 / pi) arcsin(rho).
    """
    compared = counted & first.reward.scored & second.reward.scored
    a, b = _centred(first.own, compared), _centred(second.own, compared)
    x, y = _centred(first.shared.values, compared), _centred(second.shared.values, compared)
    variances = ((a * a).sum() + (x * x).sum()) * ((b * b).sum() + (y * y).sum())
    if compared.sum() < 2 or variances == 0:
        return Absent.NO_VARIATION
    rho = float((x * y).sum() / np.sqrt(variances))
    return 0.5 + math.asin(min(1.0, max(-1.0, rho))) / math.pi


def permuted_null(
    first: Rating,
    second: Rating,
    counted: Counted,
    rates: Callable[[Rating, Rating], RankAgreement],
    generator: np.random.Generator,
    *,
    num_permutations: int = 100,
    level: float = 0.95,
) -> Interval | Absent:
    """C where, within each prompt, nothing but the shared term is related.

    Each permutation puts what a rating does not share in random order among the completions of its
    prompt that are compared, of either rating apart, and leaves the shared term where it is: the
    same as permuting log pi_0 against log pi_t and against log pi_{t-1}. Permuting log pi_0 alone
    would leave whatever else relates the two policies. The dead zone of a place stays.

    Args:
        first: One rating.
        second: The other.
        counted: Completions that may be compared.
        rates: C_j of two ratings, per prompt.
        generator: Source of the permutations.
        num_permutations: How often.
        level: Share of the permutations that lie in the interval.

    Returns:
        Mean over permutations of the mean C_j, with the range that holds `level` of them;
        ``num_items`` counts permutations. Or why there is none: no prompt has a C_j in any.
    """
    compared = counted & first.reward.scored & second.reward.scored
    places = np.argsort(~compared, axis=1, kind="stable")
    found = []
    for _ in range(num_permutations):
        shuffled = [
            Rating(
                Reward(
                    _shuffled(one.own, compared, places, generator) + one.shared.values,
                    one.reward.noise,
                ),
                one.shared,
            )
            for one in (first, second)
        ]
        agreement = rates(*shuffled)
        if agreement.defined.any():
            found.append(float(agreement.values[agreement.defined].mean()))
    if not found:
        return Absent.NO_ITEMS
    low, high = np.quantile(found, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return Interval(float(np.mean(found)), low, high, len(found), level)


@dataclass(frozen=True)
class Residual:
    """A rating without what its shared term explains."""

    reward: Reward
    slope: float | Absent
    """Of the rating on its shared term, within prompts. 1 where the rest is unrelated to it, the
    mark of noise; 0 where the rating is unrelated to it as a whole."""


def without_shared(rating: Rating, counted: Counted) -> Residual:
    """What is left of a rating when its regression on the shared term is taken out.

    One slope for all prompts, from deviations within prompts: sum(dJ dx) / sum(dx dx). Under the
    null (rest unrelated to the shared term) it tends to 1 whatever the distributions and however
    the variances differ between prompts, and leaves the rest alone; the rests of two ratings are
    then unrelated, and C of them is 1/2. A slope per prompt would take a degree of freedom from
    every handful of completions: of three, residuals are +-1 times one vector.

    Where the shared term is constant within every prompt it explains nothing: the rating is
    returned as it is, and the slope is absent.

    Args:
        rating: What is regressed.
        counted: Completions that take part, all of them scored.
    """
    shared, values = rating.shared.values, rating.reward.values
    x, whole = _centred(shared, counted), _centred(values, counted)
    squares = float((x * x).sum())
    if squares == 0:
        return Residual(rating.reward, Absent.NO_VARIATION)
    slope = float((whole * x).sum()) / squares
    return Residual(Reward(values - slope * shared, rating.reward.noise), slope)


def residuals(first: Rating, second: Rating, counted: Counted) -> tuple[Residual, Residual]:
    """Both ratings `without_shared`, over the completions that both score."""
    compared = counted & first.reward.scored & second.reward.scored
    return without_shared(first, compared), without_shared(second, compared)


def residual_kendall(first: Rating, second: Rating, counted: Counted) -> RankAgreement:
    """Kendall's tau-b of two ratings `without_shared`: 0 on average where only that is related."""
    one, other = residuals(first, second, counted)
    return kendall_tau(one.reward, other.reward, counted)


def partial_kendall(first: Rating, second: Rating, counted: Counted) -> RankAgreement:
    """Kendall's partial tau of two ratings given the term they share, per prompt, in [-1, 1].

    (tau_12 - tau_1 tau_2) / sqrt((1 - tau_1^2) (1 - tau_2^2)), where tau_1 and tau_2 are those with
    the shared term. Undefined where that alone orders one of the two (tau of +-1), as always for
    two completions; where it is tied throughout it explains nothing, and the value is tau_12.

    Not 0 under the null, unlike the partial *correlation*: for Gaussian noise of equal variances
    tau_12 = 1/3, tau_1 = tau_2 = 1/2, so it is (1/3 - 1/4) / (3/4) = 1/9. `residual_kendall` is 0.

    Source:
        Kendall 1942, "Partial rank correlation".
    """
    plain = kendall_tau(first.reward, second.reward, counted)
    compared = counted & first.reward.scored & second.reward.scored
    one, two = (kendall_tau(r.reward, r.shared, compared).values for r in (first, second))
    one, two = np.nan_to_num(one), np.nan_to_num(two)
    rest = (1 - one**2) * (1 - two**2)
    decided = plain.defined & (rest < 1e-12)
    values = np.full_like(plain.values, np.nan)
    kept = plain.defined & ~decided
    values[kept] = (plain.values - one * two)[kept] / np.sqrt(rest[kept])
    reason = np.where(decided, Definedness.SHARED_DECIDES, plain.definedness).astype(np.int8)
    return RankAgreement(np.clip(values, -1.0, 1.0), reason, plain.members)


def _centred(values: Values, counted: Counted) -> Values:
    """Deviations from the mean of the prompt; 0 where not counted."""
    first = np.take_along_axis(values, counted.argmax(axis=1)[:, None], axis=1)
    moved = np.where(counted, values - first, 0.0)  # so that equal values have no deviation at all
    means = moved.sum(axis=1) / np.maximum(counted.sum(axis=1), 1)
    return np.where(counted, moved - means[:, None], 0.0)


def _shuffled(
    values: Values, counted: Counted, places: np.ndarray, generator: np.random.Generator
) -> Values:
    """The values of counted members in random order within each prompt; the others NaN."""
    order = np.argsort(np.where(counted, generator.random(values.shape), np.inf), axis=1)
    moved = np.take_along_axis(values, order, axis=1)
    shuffled = np.empty_like(values)
    np.put_along_axis(shuffled, places, moved, axis=1)
    return np.where(counted, shuffled, np.nan)
