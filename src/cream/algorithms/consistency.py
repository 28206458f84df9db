"""The consistency rate C: from agreement per prompt to the number that enters the loss.

C_j = (tau_j + 1) / 2 of one prompt; the *set level* is its mean over prompts, the *sample level* is
C_j itself, the *shrunken* level lies between. Which two rankings are compared (reward and witness)
is the caller's decision; the pair level is in `cream.algorithms.pair_consistency`.

C below one half is outside the theory (it trains the reversed order). The policy for it acts on the
C that enters the loss, after averaging or shrinking, never on C_j before the mean: a floor on C_j
would turn unrelated rankings of five (C = 0.5 on average) into C = 0.58. What is reported is never
floored.

Source: Wang et al. 2024, arXiv:2410.12735; shrinking and policies are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

from cream.algorithms.ranking import Definedness, RankAgreement
from cream.algorithms.statistics import Absent, Interval, bootstrap_mean, share_of, wilson_interval
from cream.errors import DataError
from cream.types import SetConsistency, Tally


def consistency_rates(correlation: RankAgreement) -> RankAgreement:
    """C_j = (tau_j + 1) / 2 per prompt, in [0, 1], from a correlation in [-1, 1].

    For Kendall this is the probability that the two rankings order a random pair the same way. Not
    for `top_order`, which is in [0, 1] already.

    Source:
        arXiv:2410.12735.
    """
    rates = (correlation.values + 1) / 2
    return RankAgreement(rates, correlation.definedness, correlation.members)


def set_level(rates: RankAgreement) -> float:
    """C of the whole iteration: the mean over prompts where C_j is defined.

    Raises:
        DataError: C_j is defined for no prompt.

    Source:
        arXiv:2410.12735 (the paper's main method).

    """
    if not rates.defined.any():
        raise DataError(
            f"no prompt has a consistency rate ({dict(definedness_tally(rates).parts)}); compare "
            "two different quantities, or sample more distinct completions."
        )
    return float(rates.values[rates.defined].mean())


def sample_level(rates: RankAgreement) -> Float64[np.ndarray, " prompt"]:
    """C_j per prompt; the set-level C where C_j is undefined (a group without evidence of its own).

    Raises:
        DataError: C_j is defined for no prompt.

    """
    return np.where(rates.defined, rates.values, set_level(rates))


def shrunken_level(
    rates: RankAgreement, sampling_variance: Float64[np.ndarray, " prompt"]
) -> Float64[np.ndarray, " prompt"]:
    """Between set and sample level: C + s^2 / (s^2 + v_j) * (C_j - C).

    C_j from a handful of completions is mostly noise (n = 5: standard deviation 0.2 under no
    relation). s^2 is the variance of the true C_j between prompts, by the method of moments:
    variance of the C_j minus the mean v_j, at least 0. If all spread is noise (s^2 = 0), every
    prompt gets the set-level C, as do prompts where C_j is undefined.

    Args:
        rates: C_j per prompt.
        sampling_variance: v_j, the variance of C_j given the prompt (see `null_variance`).

    Raises:
        DataError: C_j is defined for no prompt.

    Source:
        James-Stein shrinkage with estimated variances (as DerSimonian and Laird 1986, unweighted).

    """
    mean = set_level(rates)
    defined = rates.defined
    values, noise = rates.values[defined], sampling_variance[defined]
    observed = values.var(ddof=1) if len(values) > 1 else 0.0
    between = max(0.0, float(observed - noise.mean()))
    shrunken = np.full(len(defined), mean)
    if between > 0:
        shrunken[defined] += between / (between + noise) * (values - mean)
    return shrunken


def null_variance(members: Int64[np.ndarray, " prompt"]) -> Float64[np.ndarray, " prompt"]:
    """Variance of C_j for n members if the rankings are unrelated: (2n + 5) / (18 n (n - 1)).

    A quarter of Kendall's variance of tau, without ties. Related rankings vary less, so this errs
    towards the set level. NaN where n < 2.

    Source:
        Kendall 1938: Var(tau) = 2 (2n + 5) / (9 n (n - 1)).
    """
    n = np.where(members >= 2, members, np.nan)
    return (2 * n + 5) / (18 * n * (n - 1))


class BelowHalf(StrEnum):
    """What to do with a C below one half, which would train the reversed order."""

    FLOOR = "floor"
    """Use 1/2: at the start of training such a pair has no gradient."""
    ALLOW = "allow"
    """Use it as it is, like the reference code."""
    DROP = "drop"
    """Do not train on the pair."""


@dataclass(frozen=True)
class LossConsistency:
    """The C that enters the loss, and which pairs are trained on at all."""

    values: Float64[np.ndarray, " pair"]
    kept: Bool[np.ndarray, " pair"]
    num_below_half: int
    """Pairs whose C was below one half before the policy acted."""


def apply_below_half(
    consistency: Float64[np.ndarray, " pair"], policy: BelowHalf
) -> LossConsistency:
    """Apply the policy to the C of each pair, averaged or shrunken already.

    Raises:
        DataError: a C is NaN or outside [0, 1].

    """
    if not ((consistency >= 0) & (consistency <= 1)).all():
        raise DataError("consistency must be in [0, 1]; choose a level that is defined everywhere.")
    below = consistency < 0.5
    count = int(below.sum())
    everything = np.ones(len(consistency), dtype=bool)
    match policy:
        case BelowHalf.FLOOR:
            return LossConsistency(np.maximum(consistency, 0.5), everything, count)
        case BelowHalf.ALLOW:
            return LossConsistency(consistency, everything, count)
        case BelowHalf.DROP:
            return LossConsistency(consistency, ~below, count)


def low_confidence(
    gap: Float64[np.ndarray, " pair"], share: float, *, label_smoothing: float
) -> Float64[np.ndarray, " pair"]:
    """C by reward gap alone: 1 - `label_smoothing` for the smallest gaps, 1 for the others.

    Args:
        gap: Reward of chosen minus rejected.
        share: Share of the pairs taken to be noisy, in [0, 1], rounded down; pairs tied with the
            last of them are taken as well.
        label_smoothing: Probability that the order of such a pair is wrong, in [0, 1/2].

    Source:
        SPA, arXiv:2406.04412.
    """
    count = share_of(share, len(gap))
    if count == 0:
        return np.ones(len(gap))
    largest = np.partition(gap, count - 1)[count - 1]
    return np.where(gap <= largest, 1 - label_smoothing, 1.0)


@dataclass(frozen=True)
class ConsistencySummary:
    """What is reported about C in one iteration. Nothing is floored."""

    rate: Interval | Absent
    """Set-level C with its bootstrap interval over prompts."""
    rate_std: float | Absent
    """Standard deviation of C_j between prompts (ddof 1)."""
    share_below_half: Interval | Absent
    """Share of defined prompts with C_j < 1/2 (Wilson interval)."""
    prompts: Tally
    """Prompts with a defined C_j, and the others by reason."""

    @property
    def tau_mean(self) -> float | Absent:
        """Mean tau, if the rates come from a correlation."""
        return self.rate if isinstance(self.rate, Absent) else 2 * self.rate.estimate - 1

    @property
    def tau_std(self) -> float | Absent:
        """Standard deviation of tau between prompts, if the rates come from a correlation."""
        return self.rate_std if isinstance(self.rate_std, Absent) else 2 * self.rate_std


def summarise(
    rates: RankAgreement, generator: np.random.Generator, *, num_resamples: int = 1000
) -> ConsistencySummary:
    """Summarise C_j over prompts, with a 95 % bootstrap interval of the set-level C."""
    values = rates.values[rates.defined]
    return ConsistencySummary(
        rate=bootstrap_mean(values, generator, num_resamples=num_resamples),
        rate_std=float(values.std(ddof=1)) if len(values) > 1 else Absent.NO_ITEMS,
        share_below_half=wilson_interval(int((values < 0.5).sum()), len(values)),
        prompts=definedness_tally(rates),
    )


def definedness_tally(agreement: RankAgreement) -> Tally:
    """Count prompts by whether their agreement is defined, and if not, why.

    A reason that one statistic alone can give is listed where it occurs.
    """
    counts = np.bincount(agreement.definedness, minlength=len(Definedness)).tolist()
    rare = Definedness.SHARED_DECIDES
    names = {
        kind.name.lower(): counts[kind] for kind in Definedness if kind != rare or counts[kind]
    }
    return Tally(len(agreement.definedness), names)


@dataclass(frozen=True, slots=True)
class StageScale:
    """What a set-level C does to a whole stage of training."""

    learning_rate: float = 1.0
    """Factor on the learning rate, in [0, 1]; 0 if the stage is skipped."""
    skipped: str | None = None
    """Why nothing is trained, or None."""


def stage_scale(action: Literal["scale_lr", "skip"], consistency: SetConsistency) -> StageScale:
    """Factor on the learning rate by a set-level C; no training if C may be 1/2.

    Adam's step does not depend on the scale of the gradient, so a set-level C near 1/2 would be
    trained at full step size on noise. Both actions skip the stage where the interval of C reaches
    down to 1/2; above it ``scale_lr`` gives 2C - 1, ``skip`` 1.
    """
    if consistency.low <= 0.5:
        interval = f"[{consistency.low:.3f}, {consistency.high:.3f}]"
        return StageScale(0.0, f"the interval of C, {interval}, reaches down to 1/2")
    return StageScale(2 * consistency.rate - 1 if action == "scale_lr" else 1.0)
