"""The log-sum-exp of logits: float32 whatever their dtype, a cache-sized tile of rows at a time.

Widening all logits at once would write and read several buffers of ``(row, vocab)`` float32; a tile
that stays in cache makes the pass as cheap as reading the logits.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from cream.kernels import layer_ops as kernels
from cream.kernels.library import fit

_TILE_ENTRIES = {"cpu": 1 << 19}
"""Logits per tile: 2 MiB of float32 on a CPU."""
_TILE_ENTRIES_ELSEWHERE = 1 << 26


def log_normalisers(
    logits: Float[Tensor, "row vocab"], temperature: float = 1.0
) -> Float32[Tensor, " row"]:
    """Natural logarithm of the sum of ``exp(logits / temperature)`` of every row."""
    if fit(logits):
        return kernels.log_normalisers(logits, temperature)
    entries = _TILE_ENTRIES.get(logits.device.type, _TILE_ENTRIES_ELSEWHERE)
    tiles = logits.split(max(1, entries // logits.shape[-1]))
    if temperature == 1:
        return torch.cat([tile.float().logsumexp(-1) for tile in tiles])
    return torch.cat([(tile.float() / temperature).logsumexp(-1) for tile in tiles])
