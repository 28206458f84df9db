"""Training of a token head: a linear map of frozen states, on pairs of an edit and its original.

A step is of all pairs at once, so nothing is drawn and equal pairs give an equal head. States are
held in memory: 4 bytes times the width of the model per token.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from cream.algorithms.token_rewards import PerPair, Side
from cream.errors import TrainingError
from cream.models.token_head import TokenHead

Loss = Callable[[Side, Side], PerPair]
"""Edits and originals to one value per pair."""


@dataclass(frozen=True)
class ReadTokens:
    """One side of a pair, after a frozen model has read it."""

    states: Float[Tensor, "token hidden"]
    """After each token."""
    touched: Bool[Tensor, " token"]
    """Of an edited text the tokens that are new, of an original those that were replaced."""


def fit_token_head(
    pairs: Sequence[tuple[ReadTokens, ReadTokens]],
    loss: Loss,
    *,
    graded: bool,
    centre: bool,
    steps: int,
    learning_rate: float,
) -> tuple[TokenHead, list[float]]:
    """Fit a head from zero, by Adam.

    Args:
        pairs: Edit and original, at least one.
        loss: What is minimised, its mean over pairs.
        graded: See `TokenHead`.
        centre: Whether states are taken less their mean, beside being divided by their deviation.
        steps: Of the optimiser.
        learning_rate: Of Adam, constant.

    Returns:
        The head, its level the mean reward of kept tokens, and the loss before every step.

    Raises:
        TrainingError: A loss is not finite.
    """
    seen = torch.cat([side.states for pair in pairs for side in pair])
    head = TokenHead(seen.shape[-1], graded=graded)
    if centre:
        head.shift.copy_(seen.mean(0))
    deviation = seen.std(0)
    head.size.copy_(torch.where(deviation > 0, deviation, 1.0))
    sides = [_padded([pair[k] for pair in pairs]) for k in (0, 1)]

    def told(rewards: Callable[[Tensor], Tensor]) -> list[Side]:
        return [Side(rewards(states), there, touched) for states, there, touched in sides]

    optimiser, losses = torch.optim.Adam([head.weight], lr=learning_rate), []
    for step in range(steps):
        optimiser.zero_grad()
        value = loss(*told(head.trained_on)).mean()
        losses.append(value.item())
        if not math.isfinite(losses[-1]):
            raise TrainingError(
                f"the loss of the token head is {losses[-1]} at step {step + 1}; lower its "
                "learning_rate"
            )
        value.backward()
        optimiser.step()
    with torch.no_grad():
        kept = torch.cat([side.rewards[side.kept] for side in told(head)])
        if len(kept):
            head.level.copy_(kept.mean())
    return head.eval(), losses


def _padded(side: Sequence[ReadTokens]) -> tuple[Tensor, Tensor, Tensor]:
    """States, what is there, what was touched, of one side of all pairs."""
    states = pad_sequence([one.states for one in side], batch_first=True)
    touched = pad_sequence([one.touched for one in side], batch_first=True)
    sizes = torch.tensor([len(one.touched) for one in side])
    return states, torch.arange(states.shape[1]) < sizes[:, None], touched
