"""Attention of one decode step: live completions against stored prompts and their own tokens.

`GroupCache` stores keys and values in preallocated buffers: a prompt's once per group slot, a
completion's own in its row slot (``group slot * members + member``). `DecodeAttention` is the
`Attention` of one step. Rows that have ended cost the layers nothing (they are not in the stream)
and cost attention only their share of a padded product.
"""

from __future__ import annotations

from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from cream.kernels.attention import decode
from cream.kernels.library import fit

_GROWTH = 32
"""Own tokens per row allocated at first; the buffers double when a row outgrows them."""


class GroupCache:
    """Keys and values of ``groups`` prompts and their ``members`` completions each, per layer."""

    def __init__(self, num_layers: int, groups: int, members: int) -> None:
        self.groups = groups
        self.members = members
        self.prompts: list[tuple[Tensor, Tensor] | None] = [None] * num_layers
        self.own: list[tuple[Tensor, Tensor] | None] = [None] * num_layers

    def store(
        self,
        layer: int,
        slots: Int64[Tensor, " group"],
        keys: Float[Tensor, "group kv_head prompt_token dim"],
        values: Float[Tensor, "group kv_head prompt_token dim"],
    ) -> None:
        """Put the keys and values of prompts into group slots."""
        _, kv_heads, width, dim = keys.shape
        pair = _widened(self.prompts[layer], width, (self.groups, kv_heads), dim, like=keys)
        pair[0][slots, :, :width] = keys
        pair[1][slots, :, :width] = values
        self.prompts[layer] = pair

    def room(
        self, layer: int, width: int, like: Float[Tensor, "kv_head live dim"]
    ) -> tuple[Tensor, Tensor]:
        """Return the own buffers of a layer, with room for ``width`` tokens per row."""
        kv_heads, _, dim = like.shape
        pair = self.own[layer]
        if pair is None or pair[0].shape[2] < width:
            capacity = max(_GROWTH, 2 * (0 if pair is None else pair[0].shape[2]), width)
            shape = (self.groups * self.members, kv_heads)
            pair = _widened(pair, capacity, shape, dim, like=like)
            self.own[layer] = pair
        return pair

    def keep(self, slots: Int64[Tensor, " group"]) -> None:
        """Shrink to the given group slots, in this order."""
        members = torch.arange(self.members, device=slots.device)
        rows = (slots[:, None] * self.members + members).flatten()
        self.prompts = [pair and (pair[0][slots], pair[1][slots]) for pair in self.prompts]
        self.own = [pair and (pair[0][rows], pair[1][rows]) for pair in self.own]
        self.groups = len(slots)


def _widened(
    pair: tuple[Tensor, Tensor] | None, width: int, rows: tuple[int, int], dim: int, like: Tensor
) -> tuple[Tensor, Tensor]:
    """Buffers of at least this width, with the old contents.

    Zeros rather than uninitialised memory: a masked key has weight 0, and 0 times NaN is NaN.
    """
    if pair is not None and pair[0].shape[2] >= width:
        return pair
    fresh = (like.new_zeros(*rows, width, dim), like.new_zeros(*rows, width, dim))
    if pair is not None:
        for new, old in zip(fresh, pair, strict=True):
            new[:, :, : old.shape[2]] = old
    return fresh


class DecodeAttention:
    """Attention of one new token per live row.

    Args:
        cache: Where prompts are and own tokens go.
        rows: Row slots of the stream's tokens, rising.
        at: Index of each token among its row's own tokens.
        prompt_lengths: Prompt tokens per group slot; at least 1 also where a slot is empty.
    """

    def __init__(
        self,
        cache: GroupCache,
        rows: Int64[Tensor, " live"],
        at: Int64[Tensor, " live"],
        prompt_lengths: Int64[Tensor, " group"],
    ) -> None:
        self._cache = cache
        self._rows = rows
        self._at = at
        self._all_live = len(rows) == cache.groups * cache.members
        self._prompt_lengths = prompt_lengths
        self._prompt_width = int(prompt_lengths.max())
        self._own_width = int(at.max()) + 1

    @cached_property
    def _bias(self) -> Float[Tensor, "group member 1 1 key"]:
        """Minus infinity where there is no token."""
        cache, device = self._cache, self._rows.device
        shape = (cache.groups, cache.members)
        newest = torch.zeros(cache.groups * cache.members, dtype=torch.int64, device=device)
        newest[self._rows] = self._at
        prompt_ends = self._prompt_lengths[:, None]
        of_prompt = torch.arange(self._prompt_width, device=device) >= prompt_ends
        of_own = torch.arange(self._own_width, device=device) > newest[:, None]
        hidden = torch.cat(
            [of_prompt[:, None].expand(*shape, -1), of_own.unflatten(0, shape)], dim=-1
        )
        bias = torch.zeros(hidden.shape, device=device).masked_fill_(hidden, float("-inf"))
        return bias[:, :, None, None]

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "1 head live dim"],
        key: Float[Tensor, "1 kv_head live dim"],
        value: Float[Tensor, "1 kv_head live dim"],
        scale: float,
    ) -> Float[Tensor, "live head dim"]:
        """One softmax over the prompt's keys and the row's own."""
        cache = self._cache
        own = cache.room(layer, self._own_width, key[0])
        stored = cache.prompts[layer]
        assert stored is not None
        if fit(query):
            lengths = self._prompt_lengths
            return decode(
                query[0], key[0], value[0], self._rows, self._at, lengths, stored, own, scale
            )
        self._append(own, key[0], value[0])
        own_keys, own_values = own
        prompt_keys, prompt_values = (part[:, :, : self._prompt_width] for part in stored)
        own_keys, own_values = (
            own_keys[:, :, : self._own_width],
            own_values[:, :, : self._own_width],
        )
        heads = (key.shape[1], query.shape[1] // key.shape[1])
        queries = self._spread(query[0].transpose(0, 1)).unflatten(1, heads)
        shape = (cache.groups, cache.members)
        by_group = queries.unflatten(0, shape).transpose(1, 2).flatten(2, 3)
        of_prompt = (by_group @ prompt_keys.mT).unflatten(2, (shape[1], heads[1])).transpose(1, 2)
        of_own = (queries @ own_keys.mT).unflatten(0, shape)
        scores = torch.cat([of_prompt, of_own], dim=-1)
        weights = torch.add(self._bias, scores, alpha=scale).softmax(-1).to(value.dtype)
        on_prompt = weights[..., : self._prompt_width].transpose(1, 2).flatten(2, 3)
        on_own = weights[..., self._prompt_width :].flatten(0, 1)
        out = (on_prompt @ prompt_values).unflatten(2, (shape[1], heads[1])).transpose(1, 2)
        out = out + (on_own @ own_values).unflatten(0, shape)
        out = out.reshape(-1, query.shape[1], query.shape[3])
        return out if self._all_live else out[self._rows]

    def _append(
        self,
        own: tuple[Tensor, Tensor],
        keys: Float[Tensor, "kv_head live dim"],
        values: Float[Tensor, "kv_head live dim"],
    ) -> None:
        """Write the new tokens into the own buffers."""
        _, kv_heads, capacity, dim = own[0].shape
        head = torch.arange(kv_heads, device=self._rows.device)[:, None]
        flat = ((self._rows * kv_heads + head) * capacity + self._at).flatten()
        own[0].view(-1, dim).index_copy_(0, flat, keys.reshape(-1, dim))
        own[1].view(-1, dim).index_copy_(0, flat, values.reshape(-1, dim))

    def _spread(self, live: Float[Tensor, "live head dim"]) -> Float[Tensor, "row head dim"]:
        """Put the live rows into their slots; other slots get zeros and are never read."""
        if self._all_live:
            return live
        full = live.new_zeros(self._cache.groups * self._cache.members, *live.shape[1:])
        return full.index_copy_(0, self._rows, live)
