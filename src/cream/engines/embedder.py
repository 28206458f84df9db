"""One vector per completion: the mean of a model's last hidden states over its tokens.

The tokens are those that the policy would have had to sample, the end of the turn among them;
prompt and padding are never part of the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from cream.engines.batching import no_room, out_of_memory
from cream.engines.texts import Text, Unscorable, special_texts, spells_any
from cream.errors import ModelError
from cream.models.chat import ChatEncoder
from cream.models.devices import give_memory_back
from cream.models.hidden import hidden, require_inference_model
from cream.models.padded_attention import PADDING, PROMPT, RowMask

POOLING = "completion_mean"
"""Name of what is done here, for fingerprints."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """What was read of a text: a vector or a reason, never both and never neither."""

    text_id: str
    vector: Float32[np.ndarray, " hidden"] | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class _Encoded:
    text_id: str
    prompt: tuple[int, ...]
    completion: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.completion)


class Embedder:
    """Embeddings under one model.

    Args:
        model: Causal language model in eval mode.
        encoder: Its template and tokenizer.
        token_budget: Tokens in one forward pass, padding included; a longer text goes alone.
        context_length: Tokens the model can take, or None for no limit.

    Raises:
        ModelError: The model is in training mode.
    """

    def __init__(
        self, model: Any, encoder: ChatEncoder, *, token_budget: int, context_length: int | None
    ) -> None:
        require_inference_model(model)
        self._model, self._encoder = model, encoder
        self._token_budget, self._context_length = token_budget, context_length
        self._special = special_texts(encoder.tokenizer)
        self._device = next(model.parameters()).device

    def embed(self, texts: Sequence[Text]) -> Iterator[Embedding]:
        """Yield one embedding per text, shortest first.

        Raises:
            ModelError: The template refuses a prompt, or memory does not hold a single text.
        """
        fitting = []
        for text in texts:
            encoded = self._encode(text)
            if isinstance(encoded, Unscorable):
                yield Embedding(text.text_id, None, encoded)
            else:
                fitting.append(encoded)
        for batch in self._batches(sorted(fitting, key=len)):
            vectors = self._means(batch).cpu().numpy()
            for item, vector in zip(batch, vectors, strict=True):
                finite = bool(np.isfinite(vector).all())
                reason = None if finite else Unscorable.NOT_FINITE
                yield Embedding(item.text_id, vector if finite else None, reason)

    def _encode(self, text: Text) -> _Encoded | Unscorable:
        if spells_any(text, self._special):
            return Unscorable.SPELLS_SPECIAL
        prompt = self._encoder.encode_prompt(text.messages)
        try:
            completion = self._encoder.encode_completion(text.messages, text.response)
        except ModelError:
            return Unscorable.NOT_SAMPLED
        if self._context_length is not None and (
            len(prompt) + len(completion) > self._context_length
        ):
            return Unscorable.TOO_LONG
        return _Encoded(text.text_id, prompt, completion)

    def _batches(self, items: Sequence[_Encoded]) -> Iterator[list[_Encoded]]:
        """Neighbours in length, as many as fit the budget when padded to the longest."""
        batch: list[_Encoded] = []
        for item in items:
            if batch and len(item) * (len(batch) + 1) > self._token_budget:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _means(self, batch: list[_Encoded]) -> Float32[Tensor, "text hidden"]:
        """Means of a batch; in two halves where memory does not hold it."""
        try:
            with torch.inference_mode():
                return self._forward(batch)
        except (MemoryError, RuntimeError) as error:
            problem = out_of_memory(error)
            if len(batch) == 1:
                raise no_room(batch[0].text_id, problem) from error
        give_memory_back(self._device)
        self._token_budget = max(self._token_budget // 2, 1)
        half = len(batch) // 2
        return torch.cat([self._means(batch[:half]), self._means(batch[half:])])

    def _forward(self, batch: list[_Encoded]) -> Float32[Tensor, "text hidden"]:
        width = max(map(len, batch))
        ids = torch.zeros(len(batch), width, dtype=torch.int64)
        segments = torch.full((len(batch), width), PADDING)
        answered = torch.zeros(len(batch), width, dtype=torch.bool)
        for k, item in enumerate(batch):
            ids[k, : len(item)] = torch.tensor([*item.prompt, *item.completion])
            segments[k, : len(item)] = PROMPT
            answered[k, len(item.prompt) : len(item)] = True
        positions = torch.arange(width, device=self._device).expand(len(batch), width)
        mask = RowMask(segments.to(self._device), one_sequence=True)
        states = hidden(self._model, ids.to(self._device), positions, mask).float()
        kept = answered.to(self._device)[..., None]
        return states.masked_fill(~kept, 0.0).sum(1) / kept.sum(1)
