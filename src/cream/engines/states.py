"""Last hidden states of completions after their prompts, read in padded batches.

What is kept of a batch is the caller's: means per completion (`cream.engines.embedder`), or the
state after every token (`after_each_token`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float32
from torch import Tensor

from cream.engines.batching import no_room, out_of_memory
from cream.models.devices import give_memory_back
from cream.models.hidden import hidden, require_inference_model
from cream.models.padded_attention import PADDING, PROMPT, RowMask

States = Float32[Tensor, "row token hidden"]
Completed = Bool[Tensor, "row token"]


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt and a completion of it, as token ids."""

    key: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


Take = Callable[[States, Completed], Sequence[Tensor] | Tensor]
"""States of a batch, and which of them are of tokens of completions: what is kept of each row."""


def after_each_token(states: States, completed: Completed) -> list[Tensor]:
    """Of each row the states after its completion's tokens, ``(token, hidden)``."""
    return [row[there] for row, there in zip(states, completed, strict=True)]


class StateReader:
    """Reads completions under one model.

    Args:
        model: Causal language model in eval mode.
        take: What is kept of a batch, one value per row.
        token_budget: Tokens in one forward pass, padding included; a longer sequence goes alone.

    Raises:
        ModelError: The model is in training mode.
    """

    def __init__(self, model: Any, take: Take, *, token_budget: int) -> None:
        require_inference_model(model)
        self._model, self._take, self._token_budget = model, take, token_budget
        self._device = next(model.parameters()).device

    def read(self, items: Sequence[Answered]) -> Iterator[tuple[str, Tensor]]:
        """Yield each key with what is kept, on the CPU, shortest first.

        Raises:
            ModelError: Memory does not hold a single sequence.
        """
        for batch in self._batches(sorted(items, key=len)):
            for item, value in zip(batch, self._taken(batch), strict=True):
                yield item.key, value.cpu()

    def _batches(self, items: Sequence[Answered]) -> Iterator[list[Answered]]:
        """Neighbours in length, as many as fit the budget when padded to the longest."""
        batch: list[Answered] = []
        for item in items:
            if batch and len(item) * (len(batch) + 1) > self._token_budget:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _taken(self, batch: list[Answered]) -> list[Tensor]:
        """Values of a batch; in two halves where memory does not hold it."""
        try:
            with torch.inference_mode():
                return list(self._forward(batch))
        except (MemoryError, RuntimeError) as error:
            problem = out_of_memory(error)
            if len(batch) == 1:
                raise no_room(batch[0].key, problem) from error
        give_memory_back(self._device)
        self._token_budget = max(self._token_budget // 2, 1)
        half = len(batch) // 2
        return self._taken(batch[:half]) + self._taken(batch[half:])

    def _forward(self, batch: list[Answered]) -> Sequence[Tensor] | Tensor:
        width = max(map(len, batch))
        ids = torch.zeros(len(batch), width, dtype=torch.int64)
        segments = torch.full((len(batch), width), PADDING)
        completed = torch.zeros(len(batch), width, dtype=torch.bool)
        for k, item in enumerate(batch):
            ids[k, : len(item)] = torch.tensor([*item.prompt, *item.completion])
            segments[k, : len(item)] = PROMPT
            completed[k, len(item.prompt) : len(item)] = True
        positions = torch.arange(width, device=self._device).expand(len(batch), width)
        mask = RowMask(segments.to(self._device), one_sequence=True)
        states = hidden(self._model, ids.to(self._device), positions, mask).float()
        return self._take(states, completed.to(self._device))
