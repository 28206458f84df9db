"""Rewards of a prompt's samples to advantages: what the others got is the baseline.

Arrays are padded groups; a cell counts where its mask says so. Every copy of a completion counts,
since each was drawn: dropping copies would change the distribution that the policy gradient is an
expectation over. No randomness, no model.

Source: REINFORCE leave-one-out, Kool et al. 2019 (Buy 4 REINFORCE samples, get a baseline for
free) and Ahmadian et al. 2024, arXiv 2402.14740; group normalisation, DeepSeekMath,
arXiv 2402.03300 (GRPO); majority votes as labels, TTRL, arXiv 2504.16084.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

Values = Float64[np.ndarray, "prompt member"]
Counted = Bool[np.ndarray, "prompt member"]


def leave_one_out(rewards: Values, counted: Counted) -> Values:
    """Mean reward of the *other* counted samples of the prompt; NaN where there is no other.

    It does not depend on the sample that it is a baseline of, so it leaves the expected gradient
    alone: ``R_i - b_i = M / (M - 1) * (R_i - mean R)``.
    """
    total, size = _sums(rewards, counted)
    others = np.where(size > 1, size - 1, np.nan)
    return np.where(counted, (total - rewards) / others, np.nan)


def group_mean(rewards: Values, counted: Counted) -> Values:
    """Mean reward of all counted samples of the prompt, the own one included (GRPO).

    The own reward shrinks the expected gradient by ``(M - 1) / M``, the same for every prompt with
    M samples.
    """
    total, size = _sums(rewards, counted)
    return np.where(counted, total / np.where(size > 0, size, np.nan), np.nan)


def group_deviation(rewards: Values, counted: Counted) -> Values:
    """Sample standard deviation (divisor M - 1) of the rewards of each prompt; NaN below two.

    Dividing by it (GRPO) gives prompts with rare successes or rare failures more weight than their
    share of the expected reward.
    """
    _, size = _sums(rewards, counted)
    gaps = np.where(counted, rewards - group_mean(rewards, counted), 0.0)
    variance = (gaps**2).sum(1, keepdims=True) / np.where(size > 1, size - 1, np.nan)
    return np.where(counted, np.sqrt(variance), np.nan)


def varies(rewards: Values, noise: Values, counted: Counted) -> Bool[np.ndarray, " prompt"]:
    """Prompts whose counted rewards differ by more than the noise of scoring.

    Without any difference no sample is better than another: each advantage is 0.
    """
    low = np.where(counted, rewards, np.inf).min(1)
    high = np.where(counted, rewards, -np.inf).max(1)
    floor = np.where(counted, noise, 0.0).max(1)
    return counted.any(1) & (high - low > floor)


def majority(answers: Int64[np.ndarray, "prompt member"], present: Counted) -> Values:
    """1 for a sample that gives the most frequent answer of its prompt, 0 for every other (TTRL).

    Copies vote. A sample without an answer is not the majority, so it gets 0. Where two answers are
    most frequent, or none was found, there is no label: NaN for the whole prompt.

    Args:
        answers: Code of the extracted answer, equal for equal answers; -1 where none was found.
        present: Samples, as opposed to padding.
    """
    given = present & (answers >= 0)
    same = (answers[:, :, None] == answers[:, None, :]) & given[:, :, None] & given[:, None, :]
    votes = same.sum(2)
    most = votes.max(1, keepdims=True)
    winning = given & (votes == most)
    # The winners are one answer exactly if they are as many as each of them has votes.
    decided = (most > 0) & (winning.sum(1, keepdims=True) == most)
    return np.where(present & decided, winning.astype(np.float64), np.nan)


def largest_vote(
    answers: Int64[np.ndarray, "prompt member"], present: Counted
) -> Float64[np.ndarray, " prompt"]:
    """Share of a prompt's samples that give its most frequent answer; NaN if none was found."""
    given = present & (answers >= 0)
    same = (answers[:, :, None] == answers[:, None, :]) & given[:, :, None] & given[:, None, :]
    most = same.sum(2).max(1).astype(np.float64)
    return np.where(most > 0, most / np.maximum(present.sum(1), 1), np.nan)


def _sums(
    rewards: Values, counted: Counted
) -> tuple[Float64[np.ndarray, "prompt one"], Int64[np.ndarray, "prompt one"]]:
    total = np.where(counted, rewards, 0.0).sum(1, keepdims=True)
    return total, counted.sum(1, keepdims=True)


ENTROPY_FALL = 0.5
"""Share of the first entropy below which it counts as collapsed."""
LENGTH_FALL = 0.5
"""Share of the first mean length below which it counts as shrunken."""
VOTE_SHARE, VOTE_RISE = 0.9, 0.1
"""Mean share of the most frequent answer, and its rise, from which votes count as collapsed."""


@dataclass(frozen=True, slots=True)
class Spread:
    """How varied the samples of an iteration are; what known collapses of self-reward show in."""

    entropy: float
    """Mean of -log p over sampled tokens, nats per token."""
    tokens: float
    """Mean length of a completion."""
    vote_share: float | None
    """Mean over prompts of `largest_vote`; None where no answer is extracted."""


def collapse(course: Sequence[Spread]) -> dict[str, str]:
    """Named warnings about the last of some iterations against the first, a sentence each.

    ``entropy_collapse``: samples hardly differ any more, so there is nothing left to choose from.
    ``shrunken_length``: the reward is earned by saying little; longer ones are named by
    `cream.algorithms.diagnostics.drift_warnings`. ``vote_collapse``: the samples of a prompt agree
    whatever it asks, which a reward by votes or certainty pays for whether right or not.

    Returns:
        Nothing for fewer than two iterations.
    """
    if len(course) < 2:
        return {}
    first, now = course[0], course[-1]
    found = {}
    if now.entropy < ENTROPY_FALL * first.entropy:
        found["entropy_collapse"] = (
            f"entropy fell from {first.entropy:.3f} to {now.entropy:.3f} nats per token: samples "
            "hardly differ any more. Stop earlier, lower the learning rate, or add a KL term."
        )
    if now.tokens < LENGTH_FALL * first.tokens:
        found["shrunken_length"] = (
            f"completions went from {first.tokens:.1f} to {now.tokens:.1f} tokens: the reward may "
            "be earned by saying little. Read some, and look at the accuracy."
        )
    if first.vote_share is not None and now.vote_share is not None:
        risen = now.vote_share - first.vote_share
        if now.vote_share >= VOTE_SHARE and risen >= VOTE_RISE:
            found["vote_collapse"] = (
                f"{100 * now.vote_share:.0f} % of a prompt's samples give the same answer (first "
                f"iteration: {100 * first.vote_share:.0f} %): agreement is rewarded, right or "
                "wrong. Look at the accuracy on test prompts."
            )
    return found
