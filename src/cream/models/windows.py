"""Candidates of a window in one packed sequence: they share a prefix, and none sees another.

    prefix | y_1 END id_1 | ... | y_w END id_w | tail | id_1 ... id_w

The prefix is causal and holds the query. A candidate sees the prefix and itself; the tail sees the
prefix, all candidates and itself; each read-out sees these and itself. Every candidate begins at
the position after the prefix, the tail at a fixed one behind the longest candidate there may be
(else a neighbour's length would move a score), and all read-outs stand at one position. So the
state at END depends on query and candidate alone, and exchanging candidates with their identifiers
exchanges their states: there is no bias of order, only one of identifiers. A candidate's identifier
stands after its END, which cannot see it; before it, the point view would change with the window.

Published descriptions give parallel candidates at equal positions, an end token per candidate and
identifiers read at the end (reviews of arXiv 2411.04602); mask and places are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cream.errors import ModelError
from cream.models.hidden import hidden
from cream.models.padded_attention import PADDING, PROMPT, RowMask
from cream.models.positions import context_length, fast_reach, text_config

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest difference of states, packed against alone, relative to their size."""


@dataclass(frozen=True, slots=True)
class Block:
    """A candidate as it stands in a window."""

    token_ids: tuple[int, ...]
    """Its tokens, those that close it, and its identifier last."""
    end: int
    """Place of END in `token_ids`."""


@dataclass(frozen=True, slots=True)
class Window:
    """The tokens of one window."""

    prefix: tuple[int, ...]
    blocks: tuple[Block, ...]
    tail: tuple[int, ...]
    """At least one token."""
    readouts: tuple[int, ...]
    """Identifiers at the end, one per block, or none: the list view is then read at the tail."""
    reach: int
    """Positions kept for a block, whatever the length of those there are."""

    def __len__(self) -> int:
        blocks = sum(len(block.token_ids) for block in self.blocks)
        return len(self.prefix) + blocks + len(self.tail) + len(self.readouts)

    @property
    def extent(self) -> int:
        """Positions it needs, which are fewer than its tokens."""
        return len(self.prefix) + self.reach + len(self.tail) + bool(self.readouts)


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """Windows as padded rows."""

    token_ids: Int64[Tensor, "row width"]
    positions: Int64[Tensor, "row width"]
    mask: RowMask
    ends: Int64[Tensor, "candidate 2"]
    """Row and place of each END, window by window."""
    readouts: Int64[Tensor, "readout 2"]
    """Row and place of each read-out, or of the last token of each tail."""


def lay_out_windows(windows: Sequence[Window], device: torch.device) -> WindowBatch:
    """Pad windows to the widest.

    Raises:
        ValueError: A block is longer than the positions kept for it.
    """
    width = max(map(len, windows))
    ids = torch.zeros(len(windows), width, dtype=torch.long)
    positions = torch.zeros_like(ids)
    segments = torch.full_like(ids, PADDING)
    seen = torch.zeros(len(windows), 1, width, width, dtype=torch.bool)
    ends, readouts = [], []
    for row, window in enumerate(windows):
        if any(len(block.token_ids) > window.reach for block in window.blocks):
            raise ValueError(f"a candidate is longer than the {window.reach} positions kept for it")
        start = len(window.prefix)
        tokens, places = [*window.prefix], [*range(start)]
        own = seen[row, 0]
        own[:, :start] = True
        for block in window.blocks:
            first = len(tokens)
            ends.append((row, first + block.end))
            tokens += block.token_ids
            places += range(start, start + len(block.token_ids))
            own[first : len(tokens), first : len(tokens)] = True
        shared = len(tokens)
        tokens += window.tail
        places += range(start + window.reach, start + window.reach + len(window.tail))
        tail_end = len(tokens)
        own[shared:, :tail_end] = True
        readouts += [(row, len(tokens) + k) for k in range(len(window.readouts))]
        readouts += [] if window.readouts else [(row, tail_end - 1)]
        tokens += window.readouts
        places += [start + window.reach + len(window.tail)] * len(window.readouts)
        own[range(tail_end, len(tokens)), range(tail_end, len(tokens))] = True
        own[len(tokens) :] = False
        ids[row, : len(tokens)] = torch.tensor(tokens)
        positions[row, : len(tokens)] = torch.tensor(places)
        segments[row, : len(tokens)] = PROMPT
    seen &= _causal(width)
    return WindowBatch(
        ids.to(device),
        positions.to(device),
        RowMask(segments.to(device), explicit=seen.to(device)),
        torch.tensor(ends).to(device),
        torch.tensor(readouts).to(device),
    )


def _causal(width: int) -> Bool[Tensor, "width width"]:
    return torch.ones(width, width, dtype=torch.bool).tril()


def window_states(
    model: Any, batch: WindowBatch
) -> tuple[Float[Tensor, "candidate hidden"], Float[Tensor, "readout hidden"]]:
    """Last hidden states, float32, at every END and at every read-out."""
    states = hidden(model, batch.token_ids, batch.positions, batch.mask).float()
    return states[batch.ends[:, 0], batch.ends[:, 1]], states[
        batch.readouts[:, 0], batch.readouts[:, 1]
    ]


def longest_extent(model: Any) -> int | None:
    """Positions that a window on this model may need; None without limit.

    Raises:
        ModelError: A trial found that candidates in a window get other states than alone, or the
            configuration says that they would.
    """
    reach, longest = fast_reach(model.config), context_length(model.config)
    if reach.tokens == 0:
        raise ModelError(
            f"this model cannot read several candidates in one sequence: {reach.reason}. Name "
            "another model to rerank with."
        )
    with torch.no_grad():
        if not _packed_as_alone(model):
            raise ModelError(
                "in a trial this model gave candidates of a window other states than each of them "
                "alone (its attention takes no 4-D mask). Name another model to rerank with."
            )
    return min((n for n in (reach.tokens, longest) if n is not None), default=None)


def _packed_as_alone(model: Any) -> bool:
    """Compare END of two unequal candidates, packed, with the model's own on each sequence."""
    vocab = text_config(model.config).vocab_size
    ids = tuple((7919 * k + 13) % vocab for k in range(16))
    blocks = (Block(ids[3:8], 3), Block(ids[8:11], 1))
    window = Window(ids[:3], blocks, ids[11:14], (ids[7], ids[10]), 6)
    device = next(model.parameters()).device
    try:
        packed, _ = window_states(model, lay_out_windows([window], device))
        alone = [
            model.base_model(
                input_ids=torch.tensor(
                    [window.prefix + block.token_ids[: block.end + 1]], device=device
                ),
                use_cache=False,
            ).last_hidden_state[0, -1]
            for block in blocks
        ]
    except (RuntimeError, ValueError, TypeError, LookupError, AttributeError):
        return False  # how foreign model code says that it takes other arguments
    truth = torch.stack(alone).float()
    dtype = alone[0].dtype
    return bool((packed - truth).norm() <= TOLERANCE.get(dtype, 0.0) * truth.norm())
