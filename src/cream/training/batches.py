"""From token ids to padded tensors: row layouts, micro-batches under a token budget, step order.

A row is a prompt followed by completions that share it. Each completion starts at the position
after the prompt and sees the prompt and itself only, so a shared row gives what separate rows
would give, with the prompt computed once. Padding is at the end of a row and is known by position;
the id that fills it has no meaning. Which completion tokens count, and which position predicts
each, comes from `cream.algorithms.logps.predictor_positions`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from itertools import compress

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cream.algorithms.logps import predictor_positions
from cream.errors import DataError
from cream.models.padded_attention import PADDING, PROMPT, RowMask
from cream.runs.seeds import derive_seed


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and the completions laid out after it."""

    prompt_token_ids: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]
    loss_masks: tuple[tuple[bool, ...] | None, ...] = ()
    """Per completion which tokens are targets, None for all of them; empty: all of all."""

    def __len__(self) -> int:
        return len(self.prompt_token_ids) + sum(len(ids) for ids in self.completions)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Padded rows, with their targets and the places whose hidden states are wanted.

    A ``target`` is a completion token whose log-probability is wanted; targets are listed
    completion by completion, rows in order and completions in the order of their row.
    """

    input_ids: Int64[Tensor, "row token"]
    position_ids: Int64[Tensor, "row token"]
    segments: Int64[Tensor, "row token"]
    """0 in the prompt, k in the k-th completion of the row, -1 in padding."""
    target_rows: Int64[Tensor, " target"]
    target_positions: Int64[Tensor, " target"]
    """Position of the row that predicts the target."""
    targets: Int64[Tensor, " target"]
    mask: Bool[Tensor, "completion completion_token"]
    """Which tokens of each completion are targets; as wide as the longest completion."""
    lengths: Int64[Tensor, " completion"]
    """Tokens of each completion."""
    completion_rows: Int64[Tensor, " completion"]
    completion_starts: Int64[Tensor, " completion"]
    """Position of the first token of each completion in its row."""
    shares_prompts: bool
    """Whether any row holds more than one completion, so that order alone is not who sees whom."""
    state_rows: Int64[Tensor, " state"]
    state_positions: Int64[Tensor, " state"]
    """Places whose last hidden states are wanted beside the log-probabilities."""
    explicit_mask: Bool[Tensor, "row 1 token token"] | None = None
    """Who sees whom, if it is not what the segments say (`RowMask`)."""

    @property
    def row_mask(self) -> RowMask:
        """Who sees whom."""
        return RowMask(self.segments, not self.shares_prompts, self.explicit_mask)

    def table(
        self, token_values: Float[Tensor, " target"]
    ) -> Float[Tensor, "completion completion_token"]:
        """Lay one value per target out by completion, 0 where there is none."""
        filled = token_values.new_zeros(self.mask.shape)
        return filled.masked_scatter(self.mask, token_values)

    def to(self, device: torch.device) -> TokenBatch:
        """Return the batch on a device."""
        moved = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


def lay_out(rows: Sequence[Row]) -> TokenBatch:
    """Pad rows to the longest and list their targets; no hidden states are asked for.

    Raises:
        ValueError: If a prompt is empty.
    """
    width = max(len(row) for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    position_ids = torch.zeros_like(input_ids)
    segments = torch.full_like(input_ids, PADDING)
    target_rows, target_positions, targets, masks, places = [], [], [], [], []
    for r, row in enumerate(rows):
        start = len(row.prompt_token_ids)
        ids, positions, parts = list(row.prompt_token_ids), list(range(start)), [PROMPT] * start
        predictors = predictor_positions(start, [len(c) for c in row.completions])
        wanted = row.loss_masks or (None,) * len(row.completions)
        for k, (completion, predicting, mask) in enumerate(
            zip(row.completions, predictors, wanted, strict=True), 1
        ):
            places.append((r, len(ids), len(completion)))
            masks.append(mask or (True,) * len(completion))
            ids += completion
            positions += range(start, start + len(completion))
            parts += [k] * len(completion)
            target_positions += compress(predicting, masks[-1])
            targets += compress(completion, masks[-1])
            target_rows += [r] * sum(masks[-1])
        input_ids[r, : len(ids)] = torch.tensor(ids)
        position_ids[r, : len(ids)] = torch.tensor(positions)
        segments[r, : len(ids)] = torch.tensor(parts)
    longest = max(map(len, masks))
    completion_rows, completion_starts, lengths = map(_indices, zip(*places, strict=True))
    return TokenBatch(
        input_ids,
        position_ids,
        segments,
        _indices(target_rows),
        _indices(target_positions),
        _indices(targets),
        torch.tensor([[*mask, *[False] * (longest - len(mask))] for mask in masks]).bool(),
        lengths,
        completion_rows,
        completion_starts,
        any(len(row.completions) > 1 for row in rows),
        _indices(()),
        _indices(()),
    )


def _indices(values: Sequence[int]) -> Int64[Tensor, " value"]:
    return torch.tensor(values, dtype=torch.long)


def steps_of(
    ids: Sequence[str],
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    only_in: Mapping[str, int] | None = None,
) -> list[tuple[int, ...]]:
    """Return the indices of each optimiser step, every item once per epoch.

    Items that `only_in` names, by id, are seen in that one epoch (0 is the first) and no other.

    The order of an epoch follows from the seed and the ids alone, not from the order given. The
    last step of an epoch may be smaller.

    Raises:
        DataError: Two items have one id.
    """
    if len(set(ids)) != len(ids):
        twice = next(i for i in ids if ids.count(i) > 1)
        raise DataError(f"training item {twice!r} occurs more than once. Give every item its id.")
    steps = []
    for epoch in range(epochs):
        seen = [i for i, key in enumerate(ids) if (only_in or {}).get(key, epoch) == epoch]
        order = sorted(seen, key=lambda i: derive_seed(seed, "order", epoch, ids[i]))
        steps += [tuple(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    return steps


def micro_batches(shapes: Sequence[tuple[int, int]], *, token_budget: int) -> list[list[int]]:
    """Cut one step into batches whose padded size stays within the budget, longest first.

    Args:
        shapes: Per item how many rows it fills and the tokens of the longest of them.
        token_budget: Most tokens of a batch, padding included. An item over it goes alone.
    """
    batches: list[list[int]] = []
    width = rows = 0
    for index in sorted(range(len(shapes)), key=lambda i: (-shapes[i][1], i)):
        count, longest = shapes[index]
        if batches and (rows + count) * width <= token_budget:
            batches[-1].append(index)
            rows += count
        else:
            batches.append([index])
            width, rows = longest, count
    return batches
