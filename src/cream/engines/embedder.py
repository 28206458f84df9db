"""One vector per completion: the mean of a model's last hidden states over its tokens.

The tokens are those that the policy would have had to sample, the end of the turn among them;
prompt and padding are never part of the mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32
from torch import Tensor

from cream.engines.states import Answered, Completed, StateReader, States
from cream.engines.texts import Text, Unscorable, special_texts, spells_any
from cream.errors import ModelError
from cream.models.chat import ChatEncoder

POOLING = "completion_mean"
"""Name of what is done here, for fingerprints."""


@dataclass(frozen=True, slots=True)
class Embedding:
    """What was read of a text: a vector or a reason, never both and never neither."""

    text_id: str
    vector: Float32[np.ndarray, " hidden"] | None
    reason: str | None


def _means(states: States, completed: Completed) -> Float32[Tensor, "text hidden"]:
    """Mean over the tokens of each completion."""
    kept = completed[..., None]
    return states.masked_fill(~kept, 0.0).sum(1) / kept.sum(1)


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
        self._reader = StateReader(model, _means, token_budget=token_budget)
        self._encoder, self._context_length = encoder, context_length
        self._special = special_texts(encoder.tokenizer)

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
        for key, mean in self._reader.read(fitting):
            vector = mean.numpy()
            finite = bool(np.isfinite(vector).all())
            reason = None if finite else Unscorable.NOT_FINITE
            yield Embedding(key, vector if finite else None, reason)

    def _encode(self, text: Text) -> Answered | Unscorable:
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
        return Answered(text.text_id, prompt, completion)
