"""Token log-probabilities of given tokens: the only place where targets are shifted and masked.

A row is a prompt followed by one or more completions that share it. Position j of a row predicts
the token after it, so the first token of *every* completion is predicted by the last prompt
position, and each later one by its predecessor. Which tokens count follows from lengths alone,
never from token ids: the pad id may equal the end id, and the end of a completion is trained.

The log-sum-exp is always float32 (float64 for float64 inputs); matrix products stay in the dtype
of their inputs. Rows are processed in tiles, forward and backward, so that the full
``(row, vocab)`` table never exists in float32. This is not a fused kernel: the backward pass
recomputes the logits of a tile, which costs one more product with the head.

Source: the tiling is that of Cut Cross-Entropy (arXiv 2411.09009) and Liger Kernel
(arXiv 2410.10989), over rows only, without their approximations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

ROWS_PER_TILE = 256
"""Rows whose logits exist at once: 256 rows of 49k tokens are 50 MB in float32."""

AddWeightGradient = Callable[[Tensor, Tensor], None]
"""Takes the gradient of ``(row, vocab)`` logits and the ``(row, hidden)`` states they came from."""


def predictor_positions(prompt_length: int, completion_lengths: Sequence[int]) -> list[list[int]]:
    """Return, per completion of a row, the position that predicts each of its tokens.

    Args:
        prompt_length: Prompt tokens at the start of the row, at least 1.
        completion_lengths: Tokens of the completions, which follow the prompt one after another.

    Raises:
        ValueError: If the prompt is empty, so that nothing predicts the first completion token.
    """
    if prompt_length < 1:
        raise ValueError("a row needs at least one prompt token to predict its first completion")
    positions, start = [], prompt_length
    for length in completion_lengths:
        inner = range(start, start + length - 1)
        positions.append([prompt_length - 1, *inner] if length else [])
        start += length
    return positions


def logps_from_logits(
    logits: Float[Tensor, "row vocab"],
    targets: Int64[Tensor, " row"],
    *,
    rows_per_tile: int = ROWS_PER_TILE,
) -> Float[Tensor, " row"]:
    """Return log p(target) of each row in float32 (float64 if the logits are).

    The gradient with respect to the logits is ``one_hot(target) - softmax``, in their dtype.
    """
    return _LogitLogps.apply(logits, targets, rows_per_tile)  # type: ignore[return-value]


def logps_from_hidden(
    hidden: Float[Tensor, "row hidden"],
    weight: Float[Tensor, "vocab hidden"],
    targets: Int64[Tensor, " row"],
    bias: Float[Tensor, " vocab"] | None = None,
    *,
    rows_per_tile: int = ROWS_PER_TILE,
    add_weight_gradient: AddWeightGradient | None = None,
) -> Float[Tensor, " row"]:
    """Return log p(target) of each row under the head ``hidden @ weight.T + bias``.

    Equals ``logps_from_logits`` of that product, without keeping it. The products run in the
    common dtype of ``hidden`` and ``weight``; the gradient of the weight is summed over tiles in
    float32 and rounded once.

    Args:
        hidden: Hidden states that predict.
        weight: The head's weight.
        targets: Token ids.
        bias: The head's bias.
        rows_per_tile: Rows whose logits exist at once.
        add_weight_gradient: If given, the backward pass hands it the factors of the weight's
            gradient, a tile at a time, and autograd gets none. With few rows and a large
            vocabulary, making, widening and adding a tensor of the head's size costs several times
            the product itself.
    """
    return _HeadLogps.apply(  # type: ignore[return-value]
        hidden, weight, targets, bias, rows_per_tile, add_weight_gradient
    )


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def _tiles(rows: int, rows_per_tile: int) -> list[slice]:
    return [slice(i, min(i + rows_per_tile, rows)) for i in range(0, rows, rows_per_tile)]


def _log_normaliser_and_target(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    wide = logits.to(_wide(logits.dtype))
    return torch.logsumexp(wide, dim=-1), wide.gather(-1, targets[:, None])[:, 0]


def _logit_gradient(
    logits: Tensor, log_normaliser: Tensor, targets: Tensor, upstream: Tensor
) -> Tensor:
    """Return ``upstream * (one_hot(target) - softmax(logits))`` in the dtype of the logits."""
    gradient = logits.to(_wide(logits.dtype)).sub(log_normaliser[:, None]).exp_()
    gradient.mul_(-upstream[:, None])
    gradient.scatter_add_(-1, targets[:, None], upstream[:, None])
    return gradient.to(logits.dtype)


class _LogitLogps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor, rows_per_tile: int) -> Tensor:
        values = logits.new_empty(len(logits), dtype=_wide(logits.dtype))
        normalisers = torch.empty_like(values)
        for tile in _tiles(len(logits), rows_per_tile):
            normaliser, target = _log_normaliser_and_target(logits[tile], targets[tile])
            normalisers[tile], values[tile] = normaliser, target - normaliser
        ctx.save_for_backward(logits, targets, normalisers)
        ctx.rows_per_tile = rows_per_tile
        return values

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        logits, targets, normalisers = ctx.saved_tensors
        gradient = torch.empty_like(logits)
        for tile in _tiles(len(logits), ctx.rows_per_tile):
            gradient[tile] = _logit_gradient(
                logits[tile], normalisers[tile], targets[tile], upstream[0][tile]
            )
        return gradient, None, None


class _HeadLogps(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        targets: Tensor,
        bias: Tensor | None,
        rows_per_tile: int,
        add_weight_gradient: AddWeightGradient | None,
    ) -> Tensor:
        values = hidden.new_empty(len(hidden), dtype=_wide(hidden.dtype))
        normalisers = torch.empty_like(values)
        for tile in _tiles(len(hidden), rows_per_tile):
            logits = torch.nn.functional.linear(hidden[tile], weight, bias)
            normaliser, target = _log_normaliser_and_target(logits, targets[tile])
            normalisers[tile], values[tile] = normaliser, target - normaliser
        ctx.save_for_backward(hidden, weight, targets, bias, normalisers)
        ctx.rows_per_tile = rows_per_tile
        ctx.add_weight_gradient = add_weight_gradient
        return values

    @staticmethod
    def backward(
        ctx: Any, *upstream: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, Tensor | None, None, None]:
        hidden, weight, targets, bias, normalisers = ctx.saved_tensors
        wants_hidden, wants_weight, _, wants_bias, _, _ = ctx.needs_input_grad
        add: AddWeightGradient | None = ctx.add_weight_gradient
        wide = _wide(hidden.dtype)
        tiles = _tiles(len(hidden), ctx.rows_per_tile)
        d_hidden = torch.empty_like(hidden) if wants_hidden else None
        d_weight = None
        if wants_weight and add is None:
            d_weight = torch.zeros_like(weight, dtype=wide if len(tiles) > 1 else weight.dtype)
        d_bias = torch.zeros_like(bias, dtype=wide) if bias is not None else None
        for tile in tiles:
            logits = torch.nn.functional.linear(hidden[tile], weight, bias)
            d_logits = _logit_gradient(logits, normalisers[tile], targets[tile], upstream[0][tile])
            if d_hidden is not None:
                d_hidden[tile] = d_logits @ weight
            if add is not None:
                add(d_logits, hidden[tile])
            elif d_weight is not None:
                d_weight += d_logits.T @ hidden[tile]
            if wants_bias and d_bias is not None:
                d_bias += d_logits.sum(0, dtype=wide)
        return (
            d_hidden,
            d_weight.to(weight.dtype) if d_weight is not None else None,
            None,
            d_bias.to(hidden.dtype) if wants_bias and d_bias is not None else None,
            None,
            None,
        )
