"""The baselines return what ours return, so that both are timed on the same work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cream.bench.inputs import padding_share
from cream.bench.sampling import generate_completions
from cream.bench.scoring import score_padded
from cream.engines.sampler import TorchSampler
from cream.engines.scorer import TorchScorer
from cream.protocols import SamplingParams
from cream.testing import tiny_model
from cream.types import SamplingRequest, ScoringRequest

PROMPTS = [(5, 6, 7), (10, 11, 12, 13, 14, 15, 16), (20,)]
REQUESTS = [SamplingRequest(f"p{i}", ids, (2 * i, 2 * i + 1)) for i, ids in enumerate(PROMPTS)]


GREEDY = [replace(request, seeds=request.seeds[:1]) for request in REQUESTS]
"""One completion each: transformers refuses several greedy ones, which would be alike."""


def greedy(model: Any, params: SamplingParams) -> list[list[tuple[int, ...]]]:
    groups = {
        group.prompt_id: [c.token_ids for c in group.completions]
        for group in TorchSampler(model).sample(GREEDY, params)
    }
    return [groups[request.prompt_id] for request in GREEDY]


def test_greedy_completions_of_generate_are_ours():
    model = tiny_model()
    params = SamplingParams(0.0, 1.0, 8, ())

    assert generate_completions(model, GREEDY, params, pad_id=2) == greedy(model, params)


def test_generate_ends_where_ours_ends():
    """The stop token is the third token of the first prompt's greedy answer."""
    model = tiny_model()
    free = SamplingParams(0.0, 1.0, 8, ())
    stop = greedy(model, free)[0][0][2]
    params = replace(free, stop_ids=(stop,))

    found = generate_completions(model, GREEDY, params, pad_id=2)

    assert found == greedy(model, params)
    assert found[0][0][-1] == stop
    assert len(found[0][0]) <= 3


def test_without_stop_tokens_generate_runs_to_the_limit():
    """The model's own end token does not end it, whatever its generation config says."""
    model = tiny_model()
    model.generation_config.eos_token_id = list(range(259))
    params = SamplingParams(0.8, 0.95, 5, ())

    found = generate_completions(model, REQUESTS, params, pad_id=2)

    assert [[len(ids) for ids in group] for group in found] == [[5, 5]] * 3


def test_generate_samples_from_the_nucleus_at_the_temperature():
    """2000 first tokens against the exact distribution: total variation is small."""
    model = tiny_model()
    torch.manual_seed(0)
    params = SamplingParams(0.8, 0.5, 1, ())
    request = SamplingRequest("p", (5, 6, 7), tuple(range(2000)))

    drawn = [ids[0] for ids in generate_completions(model, [request], params, pad_id=2)[0]]
    sampled = TorchSampler(model).sample([request], params)
    own = [c.token_ids[0] for group in sampled for c in group.completions]

    counts = [np.bincount(tokens, minlength=259) / 2000 for tokens in (drawn, own)]
    assert 0.5 * np.abs(counts[0] - counts[1]).sum() < 0.15
    assert set(drawn) == set(own) or len(set(drawn) ^ set(own)) < 10


def test_the_padded_forward_scores_like_ours():
    model = tiny_model()
    requests = [
        ScoringRequest("a", (5, 6, 7), ((8, 9), (10,), (11, 12, 13, 14))),
        ScoringRequest("b", tuple(range(20, 60)), ((3,), (4, 5, 6))),
    ]

    found = {group.prompt_id: group.token_logps for group in TorchScorer(model).score(requests)}
    padded = list(score_padded(model, requests, pad_id=2))

    assert [group.prompt_id for group in padded] == ["a", "b"]
    for group in padded:
        for own, other in zip(found[group.prompt_id], group.token_logps, strict=True):
            np.testing.assert_allclose(own, other, atol=1e-5, rtol=0)


def test_padding_by_hand():
    """Rows of 2 and 4, then 3: 8 + 3 computed for 9 real tokens."""
    assert padding_share([2, 4, 3], 2) == pytest.approx(2 / 11)
