"""Attention as kernels: of a packed stream of prompts and completions, and of a decoding step.

Every block of query rows has all its scores at once, in tile registers and cache; nothing is padded
or copied in memory. Scores are float32, weights bfloat16, as in PyTorch's fused kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import BFloat16, Int64
from torch import Tensor

from cream.kernels.library import call, padded


def _strides(stream: Tensor) -> tuple[int, int]:
    """Of tokens and heads, of a ``(head, token, dim)`` view."""
    return stream.stride(1), stream.stride(0)


def _aligned(stream: Tensor) -> Tensor:
    return stream if stream.stride(2) == 1 else stream.contiguous()


class SegmentAttention:
    """Attention of a stream of segments: each sees its parent (whole) and itself (causally).

    Args:
        segments: Start, length and parent of each, parents before children; a prompt's parent is
            -1, a completion's the index of its prompt.
    """

    def __init__(self, segments: Sequence[tuple[int, int, int]]) -> None:
        parents = {parent for _, _, parent in segments}
        offsets, self._keys = [], 0
        for index, (_, length, _) in enumerate(segments):
            offsets.append(self._keys if index in parents else -1)
            self._keys += padded(length) if index in parents else 0
        self.segments: Int64[Tensor, "segment 3"] = torch.tensor(segments, dtype=torch.int64)
        self._offsets: Int64[Tensor, " segment"] = torch.tensor(offsets, dtype=torch.int64)

    def attend(
        self,
        layer: int,
        query: BFloat16[Tensor, "1 head token dim"],
        key: BFloat16[Tensor, "1 kv_head token dim"],
        value: BFloat16[Tensor, "1 kv_head token dim"],
        scale: float,
    ) -> BFloat16[Tensor, "token head dim"]:
        """Return what every token gathers, the same way in every layer; differentiable."""
        query, key, value = (_aligned(stream[0]) for stream in (query, key, value))
        if torch.is_grad_enabled():
            gathered: Any = _Attention.apply(query, key, value, scale, self)
            return gathered
        return self._gather(query, key, value, scale, None)

    def _gather(
        self, query: Tensor, key: Tensor, value: Tensor, scale: float, lse: Tensor | None
    ) -> BFloat16[Tensor, "token head dim"]:
        heads, tokens, dim = query.shape
        # Keys and values of one place of the packed memory, all key heads.
        place = len(key) * padded(dim) * 2 * 2
        packed = torch.empty(self._keys * place, dtype=torch.uint8)
        out = query.new_empty(tokens, heads, dim)
        call(
            "cream_attention",
            *(part for t in (query, key, value) for part in (t, _strides(t))),
            out,
            lse,
            self.segments,
            len(self.segments),
            torch.where(self._offsets < 0, -1, self._offsets * place),
            packed,
            *(heads, len(key), dim),
            scale,
        )
        return out


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, scale: float, stream: SegmentAttention
    ) -> Tensor:
        lse = torch.empty(query.shape[1], len(query))
        out = stream._gather(query, key, value, scale, lse)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.scale, ctx.segments = scale, stream.segments
        return out

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        query, key, value, out, lse = ctx.saved_tensors
        heads, tokens, dim = query.shape
        gradients = [out.new_empty(tokens, n, dim) for n in (heads, len(key), len(key))]
        call(
            "cream_attention_backward",
            *(part for t in (query, key, value) for part in (t, _strides(t))),
            *(out, upstream[0].contiguous(), lse, *gradients),
            *(ctx.segments, len(ctx.segments)),
            *(heads, len(key), dim),
            ctx.scale,
        )
        d_query, d_key, d_value = (gradient.transpose(0, 1) for gradient in gradients)
        return d_query, d_key, d_value, None, None


def decode(
    query: BFloat16[Tensor, "head live dim"],
    key: BFloat16[Tensor, "kv_head live dim"],
    value: BFloat16[Tensor, "kv_head live dim"],
    rows: Int64[Tensor, " live"],
    at: Int64[Tensor, " live"],
    prompt_lengths: Int64[Tensor, " group"],
    prompts: tuple[Tensor, Tensor],
    own: tuple[Tensor, Tensor],
    scale: float,
) -> BFloat16[Tensor, "live head dim"]:
    """Store one new token per live row and return what it gathers from prompt and own tokens.

    Args:
        query: Of the new tokens.
        key: Of the new tokens; stored in ``own`` at index ``at``.
        value: Likewise.
        rows: Row slots, rising; row slot = group slot * members + member.
        at: Index of each new token among its row's own tokens.
        prompt_lengths: Prompt tokens per group slot.
        prompts: Keys and values, ``(group, kv_head, capacity, dim)``, contiguous.
        own: Keys and values, ``(row, kv_head, capacity, dim)``, contiguous.
        scale: Factor of the scores.
    """
    heads, live, dim = query.shape
    query, key, value = map(_aligned, (query, key, value))
    out = query.new_empty(live, heads, dim)
    call(
        "cream_decode",
        *(part for t in (query, key, value) for part in (t, _strides(t))),
        *(rows, at, live, prompt_lengths),
        *(*prompts, prompts[0].shape[2]),
        *(*own, own[0].shape[2]),
        out,
        *(len(own[0]) // len(prompts[0]), heads, len(key), dim),
        scale,
    )
    return out
