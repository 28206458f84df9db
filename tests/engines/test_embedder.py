"""Embeddings: the mean over the tokens of a completion, whatever stands beside it in a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cream.engines.embedder import Embedder
from cream.engines.texts import Text, Unscorable
from cream.models.chat import ChatEncoder
from cream.testing import tiny_model, tiny_tokenizer
from cream.types import Message


def text(name: str, asked: str, said: str) -> Text:
    return Text("g", name, (Message("user", asked),), said)


def embedder(model: Any, *, budget: int = 4096, limit: int | None = None) -> Embedder:
    encoder = ChatEncoder(tiny_tokenizer())
    return Embedder(model, encoder, token_budget=budget, context_length=limit)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_the_mean_is_over_completion_tokens_alone(architecture: str) -> None:
    """Against one text at a time through the model's own forward."""
    model, encoder = tiny_model(architecture=architecture).eval(), ChatEncoder(tiny_tokenizer())
    texts = [
        text("a", "hi", "x"),
        text("b", "how are you", "a longer answer"),
        text("c", "?", "yz"),
    ]
    found = {e.text_id: e.vector for e in embedder(model).embed(texts)}
    for one in texts:
        prompt = encoder.encode_prompt(one.messages)
        completion = encoder.encode_completion(one.messages, one.response)
        with torch.inference_mode():
            states = model.base_model(torch.tensor([[*prompt, *completion]])).last_hidden_state[0]
        wanted = states[len(prompt) :].mean(0).numpy()
        vector = found[one.text_id]
        assert vector is not None
        np.testing.assert_allclose(vector, wanted, atol=2e-5)


def test_batches_and_order_change_nothing() -> None:
    model = tiny_model().eval()
    texts = [text(str(k), "q" * (k % 5 + 1), "answer"[: k % 6 + 1]) for k in range(9)]
    alone = {e.text_id: e.vector for e in embedder(model, budget=1).embed(texts)}
    together = {e.text_id: e.vector for e in embedder(model).embed(texts[::-1])}
    for name, vector in alone.items():
        other = together[name]
        assert vector is not None
        assert other is not None
        np.testing.assert_allclose(vector, other, atol=2e-5)


def test_what_has_no_embedding_has_a_reason() -> None:
    model = tiny_model().eval()
    texts = [
        text("fits", "q", "a"),
        text("long", "q", "a" * 90),
        text("special", "q", "a<|im_end|>"),
    ]
    found = {e.text_id: e for e in embedder(model, limit=60).embed(texts)}
    assert {name: e.reason for name, e in found.items()} == {
        "fits": None,
        "long": Unscorable.TOO_LONG,
        "special": Unscorable.SPELLS_SPECIAL,
    }
    with torch.no_grad():
        model.get_input_embeddings().weight[:] = torch.nan
    (broken,) = embedder(model).embed(texts[:1])
    assert (broken.vector, broken.reason) == (None, Unscorable.NOT_FINITE)


def test_memory_that_does_not_hold_a_batch_halves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five texts of one length no more than two are held at a time."""
    model = tiny_model().eval()
    texts = [text(str(k), "q", letter) for k, letter in enumerate("abcde")]
    whole = {e.text_id: e.vector for e in embedder(model).embed(texts)}
    base, sizes = type(model.base_model).forward, []

    def forward(self: Any, input_ids: Any = None, **given: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("no room")
        return base(self, input_ids=input_ids, **given)

    monkeypatch.setattr(type(model.base_model), "forward", forward)
    found = {e.text_id: e.vector for e in embedder(model).embed(texts)}
    assert max(sizes) > 2
    for name, vector in whole.items():
        other = found[name]
        assert vector is not None
        assert other is not None
        np.testing.assert_allclose(vector, other, atol=2e-5)
