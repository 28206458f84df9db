"""Rewards of single tokens: losses that learn them from edits, and what they say of each token.

Entry t of everything here judges token t: a reward of it stands where ``log pi(y_t | y_<t)``
stands, and is read off the model's state *after* token t. Where a reward stands one token late, it
pays the action that came after the one that earned it.

Losses give one value per pair of an edited text and its original; nothing reduces over pairs.
Credit is a function of one sample, or of a prompt's samples.

Source: Xu et al. 2024, arXiv 2406.02756 (eq. 1 to 3, as others implemented them: `bt_mean`);
per-token cross-entropy, TLCR, arXiv 2407.16574; generalised advantages, Schulman et al. 2016,
arXiv 1506.02438. `bt_edit`, balancing and the aligned baseline are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64
from torch import Tensor
from torch.nn import functional

PerPair = Float[Tensor, " pair"]
OfSample = Float64[np.ndarray, " token"]
Samples = Sequence[Float64[np.ndarray, " _"]]
"""Of several samples, each as long as it is."""


@dataclass(frozen=True)
class Side:
    """Edited texts, or their originals."""

    rewards: Float[Tensor, "pair token"]
    there: Bool[Tensor, "pair token"]
    """Tokens, as opposed to padding."""
    touched: Bool[Tensor, "pair token"]
    """Of an edited text the tokens that are new, of an original those that were replaced."""

    def share(self, counted: Bool[Tensor, "pair token"]) -> PerPair:
        """Sum of rewards over some tokens, divided by all."""
        return torch.where(counted, self.rewards, 0).sum(-1) / self.there.sum(-1)

    @property
    def kept(self) -> Bool[Tensor, "pair token"]:
        """Tokens that the edit left alone."""
        return self.there & ~self.touched


def bt_mean(edited: Side, original: Side) -> PerPair:
    """``-log sigmoid(mean r(edited) - mean r(original))``, each over its own length.

    A constant on every reward leaves it alone, so the level of r is not learnt (see `centred`); and
    text that both share gets a residual gradient where the lengths differ.
    """
    return -functional.logsigmoid(edited.share(edited.there) - original.share(original.there))


def bt_edit(edited: Side, original: Side) -> PerPair:
    """`bt_mean` with the sums over touched tokens alone, still divided by whole lengths."""
    return -functional.logsigmoid(edited.share(edited.touched) - original.share(original.touched))


def token_ce(edited: Side, original: Side) -> PerPair:
    """Cross-entropy of single tokens, p = sigmoid(r): new 1, replaced 0, kept 1/2.

    Its rewards are logits; `graded` makes rewards of them. Balanced: the mean over touched tokens
    and the mean over kept ones weigh one half each; where one of them is empty the other weighs one
    half all the same. Unbalanced, as TLCR has it, an edit of a twentieth of the tokens gives 95 %
    of the loss to one half.
    """
    kept = _undecided(edited) + _undecided(original)
    touched = torch.where(edited.touched, -functional.logsigmoid(edited.rewards), 0).sum(-1)
    wrong = -functional.logsigmoid(-original.rewards)
    touched = touched + torch.where(original.touched, wrong, 0).sum(-1)
    num_touched = edited.touched.sum(-1) + original.touched.sum(-1)
    num_kept = edited.kept.sum(-1) + original.kept.sum(-1)
    return (touched / num_touched.clamp_min(1) + kept / num_kept.clamp_min(1)) / 2


def _undecided(side: Side) -> PerPair:
    """Sum over kept tokens of the cross-entropy against one half."""
    each = -(functional.logsigmoid(side.rewards) + functional.logsigmoid(-side.rewards)) / 2
    return torch.where(side.kept, each, 0).sum(-1)


def graded(logits: Tensor) -> Tensor:
    """``2 p - 1`` with p = sigmoid(logit), in (-1, 1): one softmax, not two."""
    return torch.tanh(logits / 2)


def centred(rewards: OfSample, level: float, clip: float | None) -> OfSample:
    """Rewards less the mean token reward of fine-tuned text, then clipped to [-clip, clip].

    Without it every token is paid the level, so a long completion is worth more, or less.
    """
    found = rewards - level
    return found if clip is None else np.clip(found, -clip, clip)


def less_divergence(
    rewards: OfSample, policy: OfSample, reference: OfSample, *, beta: float
) -> OfSample:
    """``r_t - beta (log pi - log ref)(y_t)``: the estimator k1 of single tokens, of either sign.

    AlpacaFarm raises a negative log-ratio to 0 first, which makes the estimate too large.
    """
    return rewards - beta * (policy - reference)


def gae(rewards: OfSample, values: OfSample, *, discount: float, decay: float) -> OfSample:
    """Generalised advantages: ``A_t = d_t + discount * decay * A_{t+1}``, V after the end 0.

    ``d_t = r_t + discount * V_{t+1} - V_t``. With V = 0 and decay 1 it is the reward to go; with
    discount 0 a token answers for its own reward alone.

    Args:
        rewards: One per token.
        values: V_t, what is expected from token t on; zeros without a critic.
        discount: gamma in [0, 1].
        decay: lambda in [0, 1].
    """
    after = np.append(values[1:], 0.0)
    gaps = rewards + discount * after - values
    found, last = np.empty_like(gaps), 0.0
    for t in range(len(gaps) - 1, -1, -1):
        found[t] = last = gaps[t] + discount * decay * last
    return found


def aligned_leave_one_out(returns: Samples) -> list[Float64[np.ndarray, " _"]]:
    """What is still to come at a token, less the mean of that at the same place in the others.

    A sample that has ended there has nothing to come: it counts as 0. The baseline does not depend
    on the sample's own tokens, so it leaves the expected gradient alone.

    Args:
        returns: Reward to go of each sample of a prompt, at least two.
    """
    longest = max(map(len, returns), default=0)
    table = np.zeros((len(returns), longest))
    for row, own in zip(table, returns, strict=True):
        row[: len(own)] = own
    others = (table.sum(0) - table) / (len(returns) - 1)
    return [own - row[: len(own)] for own, row in zip(returns, others, strict=True)]


def whitened(advantages: Samples) -> list[Float64[np.ndarray, " _"]]:
    """All tokens of all samples to mean 0 and population standard deviation 1, no padding among.

    Unchanged where all are alike.
    """
    together = np.concatenate(list(advantages))
    spread = float(together.std())
    if spread == 0:
        return list(advantages)
    return [(own - together.mean()) / spread for own in advantages]
