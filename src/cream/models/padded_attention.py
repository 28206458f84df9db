"""Attention of short rows in plain matrix products: a prompt and all its completions in one row.

Layers run on a packed stream without padding; inside attention the tokens of a row (a prompt, then
completions that share it) are laid side by side and padded to the longest row. A `RowMask`
says who sees whom: the prompt and one's own completion up to oneself, or what it states place by
place. On short rows this beats fused kernels, which pay per
row and head; differentiable, so training and scoring share it. Not for long rows: the scores
``(row, head, width, width)`` exist.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

PROMPT, PADDING = 0, -1
"""Segments of a row; its completions are segments 1, 2, ..."""


@dataclass(frozen=True, slots=True)
class RowMask:
    """Who sees whom among the places of padded rows.

    Raises:
        ValueError: An explicit mask in which a token sees nothing, or a place without a token.
    """

    segments: Int64[Tensor, "row width"]
    """Segment of every place of every row, `PADDING` (at the end) where there is no token."""
    one_sequence: bool = False
    """Whether every row is one sequence, so that its order alone says who sees whom."""
    explicit: Bool[Tensor, "row 1 width width"] | None = None
    """Which keys (last) each query sees; None: what came before, in the prompt or the query's own
    completion."""

    def __post_init__(self) -> None:
        if self.explicit is None:
            return
        seen = self.explicit[:, 0][self.segments != PADDING]
        if not bool(seen.any(-1).all()):
            raise ValueError("a token of the mask sees no token; let it see itself")
        if bool((self.explicit[:, 0].any(1) & (self.segments == PADDING)).any()):
            raise ValueError("in the mask something sees a place where there is no token")

    @property
    def plain(self) -> bool:
        """Whether causality alone, which every model has, gives this mask."""
        return self.one_sequence and self.explicit is None

    def allowed(self) -> Bool[Tensor, "row 1 width width"]:
        """Tell which keys each query sees.

        Padding sees padding: a query without any key would be NaN, and nobody reads padding.
        """
        query, key = self.segments[:, :, None], self.segments[:, None, :]
        if self.explicit is not None:
            return self.explicit | ((query == PADDING) & (key == PADDING))[:, None]
        width = self.segments.shape[1]
        causal = torch.ones(width, width, dtype=torch.bool, device=self.segments.device).tril()
        return (causal & ((key == PROMPT) | (key == query)))[:, None]


class PaddedAttention:
    """Attention among the tokens of each row of a packed stream.

    Args:
        mask: Who sees whom, and where there is no token.
        order: Stream position of every place; not read where there is no token. None: the stream
            holds the rows one after another.
        dtype: Dtype of the scores. float32 costs more and rounds less than a bfloat16 model's own.
    """

    def __init__(
        self,
        mask: RowMask,
        order: Int64[Tensor, "row width"] | None,
        dtype: torch.dtype,
    ) -> None:
        segments = mask.segments
        real = segments != PADDING
        places = real.flatten().nonzero()[:, 0]
        if order is None:
            order = (real.flatten().cumsum(0) - 1).clamp_(min=0).view_as(segments)
        place = torch.empty_like(places)
        place[order[real]] = places
        self._shape = segments.shape
        self._order: Int64[Tensor, " slot"] = torch.where(real, order, 0).flatten()
        self._place: Int64[Tensor, " token"] = place
        hidden = ~mask.allowed()
        bias = torch.zeros(hidden.shape, dtype=dtype, device=segments.device)
        self._bias: Float[Tensor, "row 1 1 width width"] = bias.masked_fill_(hidden, float("-inf"))[
            :, None
        ]

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "1 head token dim"],
        key: Float[Tensor, "1 kv_head token dim"],
        value: Float[Tensor, "1 kv_head token dim"],
        scale: float,
    ) -> Float[Tensor, "token head dim"]:
        """One softmax over the prompt and the token's own completion."""
        queries, keys, values = self._padded(query), self._padded(key), self._padded(value)
        queries, keys = queries.to(self._bias.dtype), keys.to(self._bias.dtype)
        rows, heads, width, dim = queries.shape
        kv_heads = keys.shape[1]
        grouped = queries.reshape(rows, kv_heads, -1, dim)
        scores = (grouped @ keys.mT).view(rows, kv_heads, -1, width, width)
        weights = torch.add(self._bias, scores, alpha=scale).softmax(-1).to(values.dtype)
        out = weights.view(rows, kv_heads, -1, width) @ values
        flat = out.view(rows, heads, width, dim).transpose(1, 2).reshape(-1, heads, dim)
        return _Unpad.apply(flat, self._place)  # type: ignore[return-value]

    def _padded(
        self, stream: Float[Tensor, "1 head token dim"]
    ) -> Float[Tensor, "row head width dim"]:
        """Lay the rows out; where there is no token stands one that no one sees."""
        taken: Any = _Pad.apply(stream[0].transpose(0, 1), self._order, self._place)
        return taken.unflatten(0, self._shape).transpose(1, 2)


class _Pad(torch.autograd.Function):
    """Tokens to places. Autograd's own derivative would add up by index; this one gathers."""

    @staticmethod
    def forward(ctx: Any, stream: Tensor, order: Tensor, place: Tensor) -> Tensor:
        ctx.place = place
        return stream.index_select(0, order)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        # What stands in for padding is seen by no token, so its gradient is zero.
        return upstream[0].index_select(0, ctx.place), None, None


class _Unpad(torch.autograd.Function):
    """Places to tokens."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, place: Tensor) -> Tensor:
        ctx.place, ctx.slots = place, len(rows)
        return rows.index_select(0, place)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None]:
        gradient = upstream[0].new_zeros(ctx.slots, *upstream[0].shape[1:])
        return gradient.index_copy_(0, ctx.place, upstream[0]), None
