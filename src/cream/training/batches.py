"""From token ids to padded tensors: row layouts, micro-batches under a token budget, step order.

A row is a prompt followed by completions that share it. Each completion starts at the position
after the prompt and sees the prompt and itself only, so a shared row gives what separate rows
would give, with the prompt computed once. Padding is at the end of a row and is known by position;
the id that fills it has no meaning. Which completion tokens count, and which position predicts
each, comes from `cream.algorithms.logps.predictor_positions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from cream.algorithms.logps import predictor_positions
from cream.errors import DataError
from cream.models.rows import PADDING, PROMPT
from cream.runs.seeds import derive_seed
from cream.types import TokenisedExample, TokenisedPair


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and the completions laid out after it."""

    prompt_ids: tuple[int, ...]
    completions: tuple[tuple[int, ...], ...]

    def __len__(self) -> int:
        return len(self.prompt_ids) + sum(len(ids) for ids in self.completions)


@dataclass(frozen=True, slots=True)
class TokenBatch:
    """Padded rows, and one entry per completion token (``target``), completion by completion."""

    input_ids: Int64[Tensor, "row token"]
    position_ids: Int64[Tensor, "row token"]
    segments: Int64[Tensor, "row token"]
    """0 in the prompt, k in the k-th completion of the row, -1 in padding."""
    target_rows: Int64[Tensor, " target"]
    target_positions: Int64[Tensor, " target"]
    """Position of the row that predicts the target."""
    targets: Int64[Tensor, " target"]
    lengths: Int64[Tensor, " completion"]
    """Tokens of each completion, rows in order and completions in the order of their row."""
    shares_prompts: bool
    """Whether any row holds more than one completion, and so needs `allowed`."""

    def allowed(self) -> Bool[Tensor, "row 1 token token"]:
        """Who sees whom: what came before, in the prompt or in the same completion."""
        causal = torch.ones(self.input_ids.shape[1:] * 2, dtype=torch.bool).tril()
        causal = causal.to(self.segments.device)
        query, key = self.segments[:, :, None], self.segments[:, None, :]
        # Padding sees itself: a query without any key would be NaN, and nobody reads padding.
        return (causal & ((key == PROMPT) | (key == query)))[:, None]

    def table(self, token_values: Float[Tensor, " target"]) -> Float[Tensor, "completion token"]:
        """Lay one value per target out by completion, 0 beyond the end of each."""
        longest = int(self.lengths.max())
        filled = token_values.new_zeros(len(self.lengths), longest)
        return filled.masked_scatter(self.mask(), token_values)

    def mask(self) -> Bool[Tensor, "completion token"]:
        """Where `table` holds tokens."""
        places = torch.arange(int(self.lengths.max()), device=self.lengths.device)
        return places < self.lengths[:, None]

    def to(self, device: torch.device) -> TokenBatch:
        """Return the batch on a device."""
        return TokenBatch(
            self.input_ids.to(device),
            self.position_ids.to(device),
            self.segments.to(device),
            self.target_rows.to(device),
            self.target_positions.to(device),
            self.targets.to(device),
            self.lengths.to(device),
            self.shares_prompts,
        )


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Pairs as rows, with the place of each side among the completions of the batch."""

    tokens: TokenBatch
    chosen: Int64[Tensor, " pair"]
    rejected: Int64[Tensor, " pair"]

    def to(self, device: torch.device) -> PairBatch:
        """Return the batch on a device."""
        return PairBatch(self.tokens.to(device), self.chosen.to(device), self.rejected.to(device))


def lay_out(rows: Sequence[Row]) -> TokenBatch:
    """Pad rows to the longest and list their targets.

    Raises:
        ValueError: If a prompt is empty.
    """
    width = max(len(row) for row in rows)
    input_ids = torch.zeros(len(rows), width, dtype=torch.long)
    position_ids = torch.zeros_like(input_ids)
    segments = torch.full_like(input_ids, PADDING)
    target_rows, target_positions, targets, lengths = [], [], [], []
    for r, row in enumerate(rows):
        start = len(row.prompt_ids)
        ids, positions, parts = list(row.prompt_ids), list(range(start)), [PROMPT] * start
        predictors = predictor_positions(start, [len(c) for c in row.completions])
        for k, (completion, places) in enumerate(zip(row.completions, predictors, strict=True), 1):
            ids += completion
            positions += range(start, start + len(completion))
            parts += [k] * len(completion)
            target_rows += [r] * len(completion)
            target_positions += places
            targets += completion
            lengths.append(len(completion))
        input_ids[r, : len(ids)] = torch.tensor(ids)
        position_ids[r, : len(ids)] = torch.tensor(positions)
        segments[r, : len(ids)] = torch.tensor(parts)
    return TokenBatch(
        input_ids,
        position_ids,
        segments,
        torch.tensor(target_rows, dtype=torch.long),
        torch.tensor(target_positions, dtype=torch.long),
        torch.tensor(targets, dtype=torch.long),
        torch.tensor(lengths, dtype=torch.long),
        any(len(row.completions) > 1 for row in rows),
    )


def example_batch(examples: Sequence[TokenisedExample]) -> TokenBatch:
    """One row per example; completion i belongs to example i."""
    return lay_out([Row(e.prompt_ids, (e.completion_ids,)) for e in examples])


def shared_pair_batch(pairs: Sequence[TokenisedPair]) -> PairBatch:
    """One row per pair: prompt, chosen, rejected."""
    rows = [Row(p.prompt_ids, (p.chosen_ids, p.rejected_ids)) for p in pairs]
    chosen = torch.arange(len(pairs)) * 2
    return PairBatch(lay_out(rows), chosen, chosen + 1)


def separate_pair_batch(pairs: Sequence[TokenisedPair]) -> PairBatch:
    """Two rows per pair, for models that cannot keep two completions of a row apart."""
    rows = [Row(p.prompt_ids, (p.chosen_ids,)) for p in pairs]
    rows += [Row(p.prompt_ids, (p.rejected_ids,)) for p in pairs]
    chosen = torch.arange(len(pairs))
    return PairBatch(lay_out(rows), chosen, chosen + len(pairs))


def shared_length(pair: TokenisedPair) -> int:
    """Tokens of a pair's shared row."""
    return len(pair.prompt_ids) + len(pair.chosen_ids) + len(pair.rejected_ids)


def separate_length(pair: TokenisedPair) -> int:
    """Tokens of a pair's two separate rows, padded to the longer."""
    return 2 * (len(pair.prompt_ids) + max(len(pair.chosen_ids), len(pair.rejected_ids)))


def steps_of(
    ids: Sequence[str], *, batch_size: int, epochs: int, seed: int
) -> list[tuple[int, ...]]:
    """Return the indices of each optimiser step, every item once per epoch.

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
        order = sorted(range(len(ids)), key=lambda i: derive_seed(seed, "order", epoch, ids[i]))
        steps += [tuple(order[i : i + batch_size]) for i in range(0, len(order), batch_size)]
    return steps


def micro_batches(lengths: Sequence[int], *, token_budget: int) -> list[list[int]]:
    """Cut one step into batches whose padded size stays within the budget, longest first.

    A row longer than the budget goes alone. Neighbours have similar lengths, so little is padded.
    """
    batches: list[list[int]] = []
    width = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and (len(batches[-1]) + 1) * width <= token_budget:
            batches[-1].append(index)
        else:
            batches.append([index])
            width = lengths[index]
    return batches
