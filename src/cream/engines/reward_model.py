"""An external reward model: one number per text from a sequence classifier.

The conversation with its response is written by the reward model's own template and read at its
last token. That token is found by length, never by id: the classifiers of transformers look for the
last id that is not the pad id, and so miss an end token that doubles as padding.

Decoders whose head is one linear layer are padded on the right and batched; any other classifier
(encoders, heads of several layers) goes through its own forward, one text at a time, unpadded.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn

from cream.engines.texts import Text, TextScore, Unscorable, special_texts, spells_any
from cream.models.conversations import ConversationEncoder
from cream.models.hidden import require_inference_model


@dataclass(frozen=True, slots=True)
class _Encoded:
    text_id: str
    ids: tuple[int, ...]


class RewardModel:
    """A `TextScorer` on a sequence classifier with one output.

    Args:
        model: In eval mode, as `cream.models.loading.load_reward_model` returns it.
        encoder: The reward model's template and tokenizer.
        token_budget: Tokens in one forward pass, padding included; a longer text goes alone.
        context_length: Tokens the model can take, or None for no limit.

    Raises:
        ModelError: The model is in training mode.
    """

    def __init__(
        self,
        model: Any,
        encoder: ConversationEncoder,
        *,
        token_budget: int,
        context_length: int | None,
    ) -> None:
        require_inference_model(model)
        self._model = model
        self._encoder = encoder
        self._token_budget = token_budget
        self._context_length = context_length
        self._special = special_texts(encoder.tokenizer)
        self._device = next(model.parameters()).device

    def score(self, texts: Sequence[Text]) -> Iterator[TextScore]:
        """Yield one score per text, shortest first; absent where it does not fit or is no number.

        Raises:
            ModelError: The template refuses a conversation.
        """
        fitting = []
        for text in texts:
            encoded = self._encode(text)
            if isinstance(encoded, Unscorable):
                yield TextScore(text.text_id, None, encoded, 0)
            else:
                fitting.append(encoded)
        for batch in self._batches(fitting):
            with torch.inference_mode():
                values = self._forward([item.ids for item in batch]).cpu().numpy()
            for item, value in zip(batch, values, strict=True):
                if np.isfinite(value):
                    yield TextScore(item.text_id, float(value), None, 1)
                else:
                    yield TextScore(item.text_id, None, Unscorable.NOT_FINITE, 0)

    def _encode(self, text: Text) -> _Encoded | Unscorable:
        if spells_any(text, self._special):
            return Unscorable.SPELLS_SPECIAL
        ids = self._encoder.encode(text.messages, text.response)
        if self._context_length is not None and len(ids) > self._context_length:
            return Unscorable.TOO_LONG
        return _Encoded(text.text_id, ids)

    def _batches(self, items: Sequence[_Encoded]) -> Iterator[list[_Encoded]]:
        """Neighbours in length, as many as fit the budget when padded to the longest."""
        batch: list[_Encoded] = []
        for item in sorted(items, key=lambda item: len(item.ids)):
            if batch and len(item.ids) * (len(batch) + 1) > self._token_budget:
                yield batch
                batch = []
            batch.append(item)
        if batch:
            yield batch

    def _forward(self, rows: Sequence[tuple[int, ...]]) -> Float32[Tensor, " text"]:
        head = getattr(self._model, "score", None)
        if isinstance(head, nn.Linear):
            return self._read_at_last_token(rows, head)
        one_each = [torch.tensor([ids], device=self._device) for ids in rows]
        outputs = [
            self._model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0]
            for ids in one_each
        ]
        return torch.cat(outputs).float()

    def _read_at_last_token(
        self, rows: Sequence[tuple[int, ...]], head: nn.Linear
    ) -> Float32[Tensor, " text"]:
        lengths = torch.tensor([len(ids) for ids in rows], device=self._device)
        width = int(lengths.max())
        # Any id does as padding: it is masked, and nothing that is read comes after it.
        padded = torch.tensor([[*ids, *[0] * (width - len(ids))] for ids in rows])
        mask = torch.arange(width, device=self._device)[None] < lengths[:, None]
        output = self._model.base_model(
            input_ids=padded.to(self._device), attention_mask=mask.long(), use_cache=False
        )
        every_row = torch.arange(len(rows), device=self._device)
        hidden = output.last_hidden_state[every_row, lengths - 1].float()
        bias = None if head.bias is None else head.bias.float()
        return nn.functional.linear(hidden, head.weight.float(), bias)[:, 0]
