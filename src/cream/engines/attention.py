"""Attention over packed prompts and their completions, each prompt computed and stored once.

Two arrangements of the same attention, both exact:

- `PackedAttention`: whole prompts and completions in one stream, for prefill and scoring. A
  completion's attention is computed in two parts, over its prompt and over itself, and joined by
  their log-sum-exps, so that nothing of the prompt is copied per completion and no mask is built.
- `GroupCache` with `DecodeAttention`: one new token per live completion against the stored prompt
  (one copy per group, all its completions as queries of one product) and its own stored tokens.

Padding exists only inside an attention call, never in the layers around it. Sources: joining by
log-sum-exp, Dao et al. 2022 (arXiv 2205.14135); one prefix for many completions, Juravsky et al.
2024 (Hydragen, arXiv 2402.05099) and Liu et al. 2025 (Prefix Grouper, arXiv 2506.05433).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import accumulate

import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor
from torch.nn import functional as F

from cream.kernels.attention import SegmentAttention
from cream.kernels.library import fit

KeyValueSink = Callable[[int, Tensor, Tensor], None]
"""Receives (layer, keys, values) of the prompts, each ``(group, kv_head, prompt_token, dim)``."""


def packed(
    prompts: Sequence[Sequence[int]], completions: Sequence[Sequence[Sequence[int]]]
) -> tuple[list[int], list[int]]:
    """Token ids and positions of the stream: all prompts, then all completions by prompt."""
    ids = [token for prompt in prompts for token in prompt]
    positions = [place for prompt in prompts for place in range(len(prompt))]
    for prompt, own in zip(prompts, completions, strict=True):
        for completion in own:
            ids.extend(completion)
            positions.extend(range(len(prompt), len(prompt) + len(completion)))
    return ids, positions


class PackedAttention:
    """Attention in a stream that holds all prompts, then all completions grouped by prompt.

    For inference: without a kernel, the log-sum-exps that join two parts have no derivative.

    Args:
        prompt_lengths: Tokens of each prompt.
        completion_lengths: Per prompt, the tokens of each of its completions that are in the
            stream; all at least 1, a prompt may have none.
        device: Where the stream lives.
        sink: Takes the prompts' keys and values of each layer, for prefill.
    """

    def __init__(
        self,
        prompt_lengths: Sequence[int],
        completion_lengths: Sequence[Sequence[int]],
        device: torch.device,
        sink: KeyValueSink | None = None,
    ) -> None:
        self._sink = sink
        flat = [n for lengths in completion_lengths for n in lengths]
        per_group = [sum(lengths) for lengths in completion_lengths]
        self._prompt_tokens = sum(prompt_lengths)
        self._completion_tokens = sum(flat)
        self.prompts = _Padding(prompt_lengths, 0, device)
        self.completions = _Padding(flat, self._prompt_tokens, device)
        with_any = [g for g, n in enumerate(per_group) if n]
        self._groups = torch.tensor(with_any, dtype=torch.int64, device=device)
        self._queries = _Padding([per_group[g] for g in with_any], self._prompt_tokens, device)
        lengths = torch.tensor([prompt_lengths[g] for g in with_any], device=device)
        width = torch.arange(max(prompt_lengths), device=device)
        self._prompt_keys = (width < lengths[:, None])[:, None, None]
        self._segments = _segments(prompt_lengths, completion_lengths)
        self._ragged = bool(len(set(prompt_lengths)) > 1)

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "1 head token dim"],
        key: Float[Tensor, "1 kv_head token dim"],
        value: Float[Tensor, "1 kv_head token dim"],
        scale: float,
    ) -> Float[Tensor, "token head dim"]:
        """Causal attention inside each prompt and from each completion to its prompt and itself."""
        if self._sink is not None:
            self._sink(layer, self.prompts.pad(key[0]), self.prompts.pad(value[0]))
        if fit(query):
            return self._kernel.attend(layer, query, key, value, scale)
        keys, values = self.prompts.pad(key[0]), self.prompts.pad(value[0])
        prompt_queries = self.prompts.pad(query[0])
        # Right padding needs no mask: causality hides it from every real token.
        of_prompts = F.scaled_dot_product_attention(
            prompt_queries, keys, values, is_causal=True, scale=scale, enable_gqa=True
        )
        out = self.prompts.unpad(of_prompts)
        if self._completion_tokens:
            own = self._own(query[0], key[0], value[0], scale)
            shared = self._shared(query[0], keys, values, scale)
            out = torch.cat([out, _join(*own, *shared).to(out.dtype)])
        return out

    def _own(
        self,
        query: Float[Tensor, "head token dim"],
        key: Float[Tensor, "kv_head token dim"],
        value: Float[Tensor, "kv_head token dim"],
        scale: float,
    ) -> tuple[Float[Tensor, "token_ head dim"], Float32[Tensor, "token_ head"]]:
        """Every completion token over the tokens of its completion up to itself."""
        pad = self.completions.pad
        out, lse = _attention_with_lse(pad(query), pad(key), pad(value), scale, causal=True)
        return self.completions.unpad(out), self.completions.unpad(lse[..., None])[..., 0]

    def _shared(
        self,
        query: Float[Tensor, "head token dim"],
        keys: Float[Tensor, "group kv_head prompt_token dim"],
        values: Float[Tensor, "group kv_head prompt_token dim"],
        scale: float,
    ) -> tuple[Float[Tensor, "token_ head dim"], Float32[Tensor, "token_ head"]]:
        """Every completion token over its whole prompt; completions need not be told apart."""
        if len(self._groups) < len(keys):
            keys, values = keys[self._groups], values[self._groups]
        mask = self._prompt_keys if self._ragged else None
        out, lse = _attention_with_lse(self._queries.pad(query), keys, values, scale, mask=mask)
        return self._queries.unpad(out), self._queries.unpad(lse[..., None])[..., 0]

    @cached_property
    def _kernel(self) -> SegmentAttention:
        return SegmentAttention(self._segments)


def _segments(
    prompts: Sequence[int], completions: Sequence[Sequence[int]]
) -> list[tuple[int, int, int]]:
    """Start, length and parent of all prompts, then of all completions."""
    lengths = [(n, -1) for n in prompts]
    lengths += [(n, parent) for parent, own in enumerate(completions) for n in own]
    starts = accumulate((n for n, _ in lengths), initial=0)
    return [(start, n, parent) for start, (n, parent) in zip(starts, lengths, strict=False)]


class _Padding:
    """Index arithmetic between consecutive segments of a stream and rows padded on the right."""

    def __init__(self, lengths: Sequence[int], start: int, device: torch.device) -> None:
        self.rows = len(lengths)
        self.width = max(lengths, default=0)
        sizes = torch.tensor(lengths, dtype=torch.int64, device=device)
        row = torch.repeat_interleave(torch.arange(self.rows, device=device), sizes)
        first = sizes.cumsum(0) - sizes
        column = torch.arange(len(row), device=device) - first[row]
        self.flat: Int64[Tensor, " token"] = row * self.width + column
        index = torch.zeros(self.rows * self.width, dtype=torch.int64, device=device)
        index[self.flat] = torch.arange(len(row), device=device)
        self.index: Int64[Tensor, " slot"] = index + start
        self.exact = len(row) == self.rows * self.width
        self._span = slice(start, start + len(row))

    def pad(self, stream: Float[Tensor, "head token dim"]) -> Float[Tensor, "row head width dim"]:
        """Cut the segments out of a stream; a row's tail repeats tokens that no one looks at."""
        flat = stream[:, self._span] if self.exact else stream.index_select(1, self.index)
        return flat.unflatten(1, (self.rows, self.width)).transpose(0, 1)

    def unpad(self, rows: Float[Tensor, "row head width dim"]) -> Float[Tensor, "token head dim"]:
        """Put the real tokens of padded rows back in stream order."""
        flat = rows.transpose(1, 2).flatten(0, 1)
        return flat if self.exact else flat.index_select(0, self.flat)


def _join(
    a: Float[Tensor, "token head dim"],
    a_lse: Float32[Tensor, "token head"],
    b: Float[Tensor, "token head dim"],
    b_lse: Float32[Tensor, "token head"],
) -> Float32[Tensor, "token head dim"]:
    """Attention over the union of two disjoint sets of keys, from attention over each."""
    return torch.lerp(b.float(), a.float(), torch.sigmoid(a_lse - b_lse)[..., None])


def _attention_with_lse(
    query: Float[Tensor, "row head token dim"],
    key: Float[Tensor, "row kv_head key dim"],
    value: Float[Tensor, "row kv_head key dim"],
    scale: float,
    *,
    causal: bool = False,
    mask: Bool[Tensor, "row 1 1 key"] | None = None,
) -> tuple[Float[Tensor, "row head token dim"], Float32[Tensor, "row head token"]]:
    """Attention and the log-sum-exp of its scores, which public PyTorch does not return."""
    if query.device.type == "cpu":
        bias = None
        if mask is not None:
            bias = torch.zeros_like(mask, dtype=query.dtype).masked_fill_(~mask, float("-inf"))
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            query, key, value, 0.0, causal, attn_mask=bias, scale=scale
        )
    return _plain_attention_with_lse(query, key, value, scale, causal=causal, mask=mask)


def _plain_attention_with_lse(
    query: Float[Tensor, "row head token dim"],
    key: Float[Tensor, "row kv_head key dim"],
    value: Float[Tensor, "row kv_head key dim"],
    scale: float,
    *,
    causal: bool = False,
    mask: Bool[Tensor, "row 1 1 key"] | None = None,
) -> tuple[Float[Tensor, "row head token dim"], Float32[Tensor, "row head token"]]:
    """`_attention_with_lse` in matrix products, for devices without the fused operator."""
    repeats = query.shape[1] // key.shape[1]
    grouped = query.unflatten(1, (key.shape[1], repeats)).flatten(2, 3)
    scores = (grouped @ key.mT).float() * scale
    scores = scores.unflatten(2, (repeats, query.shape[2])).flatten(1, 2)
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    lse = scores.logsumexp(-1)
    weights = (scores - lse[..., None]).exp().to(value.dtype)
    weights = weights.unflatten(1, (key.shape[1], repeats)).flatten(2, 3)
    out = (weights @ value).unflatten(2, (repeats, query.shape[2])).flatten(1, 2)
    return out, lse
