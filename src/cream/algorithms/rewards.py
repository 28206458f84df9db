"""Rewards: one number per completion and how far it can be trusted.

A reward is built by composition: `likelihood` of a model, `difference` of two (the implicit
reward), `per_token`, `subtract_length`, or an ensemble of several. All are in nats and carry no
beta: a positive factor changes no rank. The same record serves as the witness that a ranking is
compared with. Nothing here runs a model or decides a pair.

Noise is the scorer's floating-point floor, not the sampling error of a model: two members of a
group whose values differ by no more than the larger of their noises are tied (a dead zone).

Source: Wang et al. 2024, arXiv:2410.12735 (implicit reward, M0 as the fixed reference);
Chen et al. 2024, arXiv:2406.09760 (length-regularised reward); Prasad et al. 2024,
arXiv:2411.04109 (votes).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from cream.algorithms.groups import Groups
from cream.errors import DataError


@dataclass(frozen=True)
class Reward:
    """A value per completion, with its noise. Higher is better."""

    values: Float64[np.ndarray, "prompt member"]
    """NaN where the completion is not scored, and in padding."""
    noise: Float64[np.ndarray, "prompt member"]
    """>= 0, in the unit of the values. Read only where the value is not NaN."""

    def __post_init__(self) -> None:
        scored = ~np.isnan(self.values)
        _require(np.isfinite(self.values) | ~scored, "infinite value")
        _require((self.noise >= 0) & np.isfinite(self.noise) | ~scored, "negative or missing noise")

    @property
    def scored(self) -> Bool[np.ndarray, "prompt member"]:
        """True where there is a value."""
        return ~np.isnan(self.values)

    def __getitem__(self, prompts: slice) -> Reward:
        return Reward(self.values[prompts], self.noise[prompts])


def _require(fine: Bool[np.ndarray, "prompt member"], what: str) -> None:
    if not fine.all():
        prompt, member = np.argwhere(~fine)[0].tolist()
        raise DataError(
            f"reward has {int((~fine).sum())} completions with {what}, first at prompt {prompt}, "
            f"member {member}; score these completions again or leave them unscored."
        )


def exact(values: Float64[np.ndarray, "prompt member"]) -> Reward:
    """Take values without floating-point noise, such as a verifier's 0 or 1 or a judge's grade."""
    return Reward(values, np.zeros_like(values))


def likelihood(
    logps: Float64[np.ndarray, "prompt member"],
    num_tokens: Int64[np.ndarray, "prompt member"],
    *,
    noise_floor: float,
) -> Reward:
    """Log-probability of each completion under one model, summed over its tokens.

    Args:
        logps: Sums of token log-probabilities, nats; NaN where not scored.
        num_tokens: Completion tokens, the end token included.
        noise_floor: Nats per square root of a token (``ScoreMatrix.noise``): the errors of tokens
            are independent, so the error of a sum grows with the root of its length.

    """
    return Reward(logps, noise_floor * np.sqrt(num_tokens))


def difference(policy: Reward, reference: Reward) -> Reward:
    """Implicit reward: log pi(y|x) - log pi_0(y|x), given the likelihoods of both models.

    Without beta, and summed over tokens as in the paper (not divided by length). If policy and
    reference are the same model it is 0 everywhere, that is, all tied: use likelihoods instead.

    Source:
        arXiv:2410.12735; Rafailov et al. 2023, arXiv:2305.18290, eq. 5.
    """
    return Reward(policy.values - reference.values, np.hypot(policy.noise, reference.noise))


def per_token(reward: Reward, num_tokens: Int64[np.ndarray, "prompt member"]) -> Reward:
    """Divide by the number of tokens: mean likelihood, or mean implicit reward.

    Raises:
        DataError: a scored completion has no tokens.

    """
    _require((num_tokens > 0) | ~reward.scored, "no tokens")
    tokens = np.maximum(num_tokens, 1)  # padding only
    return Reward(reward.values / tokens, reward.noise / tokens)


def subtract_length(
    reward: Reward, num_tokens: Int64[np.ndarray, "prompt member"], *, alpha: float
) -> Reward:
    """Length-regularised reward: value - alpha * tokens, alpha in nats per token.

    Source:
        DICE, arXiv:2406.09760, whose code has no beta in the reward either; its lengths are in
        characters.
    """
    return Reward(reward.values - alpha * num_tokens, reward.noise)


def penalise_truncated(
    reward: Reward,
    truncated: Bool[np.ndarray, "prompt member"],
    *,
    penalty: Float64[np.ndarray, "prompt member"],
) -> Reward:
    """Subtract a penalty, in the unit of the reward, from completions cut off at the token limit.

    Raises:
        DataError: A penalty of a truncated completion is not positive.
    """
    if not (penalty[truncated] > 0).all():
        raise DataError(
            f"the penalty of truncated completions must be > 0, not {penalty[truncated].min()}."
        )
    return Reward(reward.values - np.where(truncated, penalty, 0.0), reward.noise)


def length_alpha(
    reward: Reward,
    num_tokens: Int64[np.ndarray, "prompt member"],
    counted: Bool[np.ndarray, "prompt member"],
) -> float:
    """Find the alpha at which best and worst completions are equally long on average.

    The mean length gap (best minus worst by ``value - alpha * tokens``) never rises with alpha: a
    dearer token makes the best no longer and the worst no shorter. It is a step function, so it may
    jump over zero. Bisection from alpha = 0 towards the crossing finds that jump; of its two sides
    the one with the smaller gap is returned (at equal gaps the smaller correction). Once alpha
    exceeds the widest range of values in a group, order is by length alone, so a crossing exists.

    Args:
        reward: The reward to be regularised.
        num_tokens: Completion tokens.
        counted: Members that may be paired (distinct ones). Groups with fewer than two count for
            nothing.

    Returns:
        Nats per token, positive if the reward favours long completions. 0 if no group counts.

    Source:
        DICE, arXiv:2406.09760: alpha = argmin |E[length of chosen - length of rejected]|, there
        over a grid from 0 upwards.

    """
    counted = counted & reward.scored
    used = counted.sum(axis=1) >= 2
    if not used.any():
        return 0.0
    values, lengths, counted = reward.values[used], num_tokens[used].astype(float), counted[used]
    near, near_gap = 0.0, _mean_length_gap(values, lengths, counted, 0.0)
    widest = np.where(counted, values, -np.inf).max(1) - np.where(counted, values, np.inf).min(1)
    far = np.copysign(float(widest.max()) + 1.0, near_gap)
    far_gap = _mean_length_gap(values, lengths, counted, far)
    while near_gap != 0 and far_gap != 0 and abs(far - near) > 1e-9 * (1 + abs(near)):
        middle = (near + far) / 2
        gap = _mean_length_gap(values, lengths, counted, middle)
        if gap * near_gap > 0:
            near, near_gap = middle, gap
        else:
            far, far_gap = middle, gap
    return near if abs(near_gap) <= abs(far_gap) else far


def _mean_length_gap(
    values: Float64[np.ndarray, "group member"],
    lengths: Float64[np.ndarray, "group member"],
    counted: Bool[np.ndarray, "group member"],
    alpha: float,
) -> float:
    """Mean over groups of length(best) - length(worst); members tied for a place are averaged."""
    adjusted = values - alpha * lengths
    highest = np.where(counted, adjusted, -np.inf).max(axis=1, keepdims=True)
    lowest = np.where(counted, adjusted, np.inf).min(axis=1, keepdims=True)
    best, worst = counted & (adjusted == highest), counted & (adjusted == lowest)
    best_length = (lengths * best).sum(axis=1) / best.sum(axis=1)
    worst_length = (lengths * worst).sum(axis=1) / worst.sum(axis=1)
    return float((best_length - worst_length).mean())


def ensemble_mean(rewards: Sequence[Reward]) -> Reward:
    """Mean over models. Noise: the mean of theirs, valid even if they share a reference column."""
    values, noise = _stacked(rewards)
    return Reward(values.mean(axis=0), noise.mean(axis=0))


def ensemble_min(rewards: Sequence[Reward]) -> Reward:
    """Lowest value over models, the most cautious. Noise: the largest of theirs."""
    values, noise = _stacked(rewards)
    return Reward(values.min(axis=0), noise.max(axis=0))


def ensemble_lower_bound(rewards: Sequence[Reward], *, num_stds: float) -> Reward:
    """Mean minus ``num_stds`` population standard deviations over models (``num_stds`` >= 0).

    Noise: mean of theirs plus ``num_stds`` times the largest, since a standard deviation moves by
    no more than the largest of the errors, however these are correlated.

    Raises:
        DataError: ``num_stds`` is negative, which would reward disagreement.

    """
    if num_stds < 0:
        raise DataError(f"an ensemble's lower bound needs num_stds >= 0, not {num_stds}.")
    values, noise = _stacked(rewards)
    lower = values.mean(axis=0) - num_stds * values.std(axis=0)
    return Reward(lower, noise.mean(axis=0) + num_stds * noise.max(axis=0))


def _stacked(
    rewards: Sequence[Reward],
) -> tuple[Float64[np.ndarray, "model prompt member"], Float64[np.ndarray, "model prompt member"]]:
    """Stack models; a completion that one model did not score is not scored by the ensemble."""
    if not rewards:
        raise DataError("an ensemble needs at least one model; name them in the recipe.")
    return np.stack([r.values for r in rewards]), np.stack([r.noise for r in rewards])


def vote_share(answers: Int64[np.ndarray, "prompt member"], groups: Groups) -> Reward:
    """Share of a group's completions that give the same extracted answer, in (0, 1].

    Every copy of a duplicate votes. Completions without an answer have no value (NaN) but count in
    the denominator, so a group that mostly failed to answer has small shares.

    Args:
        answers: Code of the extracted answer, equal for equal answers; -1 where none was found.
        groups: The groups, with multiplicities.

    Source:
        ScPO, arXiv:2411.04109 (votes V(y)); here divided by the number of completions.

    """
    voting = groups.distinct & (answers >= 0)
    _, answer_index = np.unique(answers[voting], return_inverse=True)
    keys = np.nonzero(voting)[0] * (answer_index.max(initial=0) + 1) + answer_index
    _, ballot = np.unique(keys, return_inverse=True)
    votes = np.bincount(ballot, weights=groups.multiplicity[voting].astype(float))
    shares = np.full(answers.shape, np.nan)
    shares[voting] = votes[ballot]
    return exact(shares / np.maximum(groups.present.sum(axis=1, keepdims=True), 1))
