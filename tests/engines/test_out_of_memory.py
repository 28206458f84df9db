"""Out of memory, said by the allocator itself: engines halve what they do at a time and go on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from cream.engines.sampler import TorchSampler
from cream.engines.scorer import TorchScorer
from cream.errors import ModelError, NotFiniteError
from cream.models.fused_decoder import FusedDecoder
from cream.protocols import SamplingParams
from cream.testing import tiny_model
from cream.types import SamplingRequest, ScoringRequest

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, max_completion_tokens=6, stop_ids=(2,))
REQUESTS = [SamplingRequest(f"p{i}", (5, 6 + i, 7), tuple(range(4))) for i in range(8)]


@pytest.fixture
def hungry(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Have every forward of more tokens than a limit ask the allocator for far too much."""

    def limit(most: int) -> None:
        hidden = FusedDecoder.hidden

        def forward(self: FusedDecoder, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
            if len(ids) > most:
                torch.empty(1 << 60)
            return hidden(self, ids, *rest)

        monkeypatch.setattr(FusedDecoder, "hidden", forward)

    return limit


def test_a_sampler_goes_on_with_fewer_rows(hungry: Any):
    model, said = tiny_model().eval(), []
    expected = {g.prompt_id: g.completions for g in TorchSampler(model).sample(REQUESTS, PARAMS)}
    sampler = TorchSampler(model, say=said.append)
    assert not sampler.plain_reason
    hungry(9)  # rows decoded, or tokens prefilled: 8 prompts have 24
    found = {g.prompt_id: g.completions for g in sampler.sample(REQUESTS, PARAMS)}

    assert {k: [c.token_ids for c in v] for k, v in found.items()} == {
        k: [c.token_ids for c in v] for k, v in expected.items()
    }
    assert said
    assert all("out of memory while sampling" in text for text in said)


def test_a_scorer_goes_on_with_fewer_tokens(hungry: Any):
    model, said = tiny_model().eval(), []
    asked = [ScoringRequest(f"p{i}", (5, 6 + i), ((7, 8, 2), (9, 2))) for i in range(12)]
    expected = {g.prompt_id: g.token_logps for g in TorchScorer(model).score(asked)}
    scorer = TorchScorer(model, token_budget=64, say=said.append)
    assert not scorer.plain_reason
    hungry(20)
    found = {g.prompt_id: g.token_logps for g in scorer.score(asked)}

    assert found.keys() == expected.keys()
    for key, logps in found.items():
        for mine, theirs in zip(logps, expected[key], strict=True):
            np.testing.assert_allclose(mine, theirs, atol=1e-5)
    assert len(said) == 2  # 64, 32, 16
    assert len(list(scorer.score(asked))) == 12
    assert len(said) == 2  # for good


def test_one_prompt_that_memory_does_not_hold_is_one_sentence(hungry: Any):
    model = tiny_model().eval()
    sampler, scorer = TorchSampler(model), TorchScorer(model)
    assert not sampler.plain_reason + scorer.plain_reason
    hungry(1)

    with pytest.raises(ModelError, match="prompt p0: memory does not hold it"):
        list(sampler.sample(REQUESTS[:1], PARAMS))
    with pytest.raises(ModelError, match="prompt q: memory does not hold it"):
        list(scorer.score([ScoringRequest("q", (5, 6), ((7, 8),))]))


def test_other_errors_of_a_forward_come_through(monkeypatch: pytest.MonkeyPatch):
    def broken(*arguments: Any) -> None:
        raise RuntimeError("shapes do not fit")

    scorer = TorchScorer(tiny_model().eval())
    assert not scorer.plain_reason
    monkeypatch.setattr(FusedDecoder, "hidden", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(scorer.score([ScoringRequest("q", (5,), ((7, 8),))]))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("top_p", [1.0, 0.9])
def test_logits_that_are_no_numbers_name_the_prompt_and_keep_the_batch(
    value: float, temperature: float, top_p: float
):
    """The third position has no numbers: a prompt of three tokens, or a second token after two."""
    model = tiny_model(architecture="gpt2").eval()
    with torch.no_grad():
        model.transformer.wpe.weight[2] = value
    params = SamplingParams(temperature, top_p, 1, (2,))
    good = SamplingRequest("good", (5, 6), (0,))
    bad = SamplingRequest("bad", (5, 200, 6), (1,))

    assert len(list(TorchSampler(model).sample([good], params))) == 1
    with pytest.raises(NotFiniteError, match="prompt bad: the model's logits are NaN") as error:
        list(TorchSampler(model).sample([good, bad], params))
    assert error.value.batch["prompt_token_ids"] == [5, 200, 6]
    with pytest.raises(NotFiniteError, match="prompt bad"):
        list(TorchScorer(model).score([ScoringRequest("bad", (5, 200), ((7, 8),))]))
