import random

import numpy as np
import pytest
import torch

from cream.engines import scorer
from cream.engines.attention import _attention_with_lse, _plain_attention_with_lse
from cream.engines.scorer import TorchScorer
from cream.errors import ModelError
from cream.protocols import LogpScorer
from cream.testing import CountingModel, tiny_model
from cream.types import ScoringRequest

ARCHITECTURES = ("llama", "qwen2", "gemma", "gpt2")


def naive_logps(model, requests, *, padding="right"):
    """Oracle: every prompt + completion padded in one batch, all logits, masks by position."""
    rows = [(r.prompt_id, r.prompt_token_ids, c) for r in requests for c in r.completions]
    width = max(len(p) + len(c) for _, p, c in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.int64)
    starts = [width - len(p) - len(c) if padding == "left" else 0 for _, p, c in rows]
    for i, (_, prompt, completion) in enumerate(rows):
        span = slice(starts[i], starts[i] + len(prompt) + len(completion))
        ids[i, span] = torch.tensor(prompt + completion)
        mask[i, span] = 1
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    with torch.inference_mode():
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    logps = logits.double().log_softmax(-1)
    result = {r.prompt_id: [] for r in requests}
    for i, (prompt_id, prompt, completion) in enumerate(rows):
        first = starts[i] + len(prompt) - 1
        steps = torch.arange(first, first + len(completion))
        result[prompt_id].append(logps[i, steps, torch.tensor(completion)].numpy())
    return result


def make_requests(count=30, seed=0):
    """Ragged groups: duplicates, single tokens, single completions, prompts of one token."""
    rng = random.Random(seed)

    def ids(low, high):
        return tuple(rng.randrange(3, 259) for _ in range(rng.randrange(low, high)))

    requests = []
    for i in range(count):
        completions = [ids(1, 15) for _ in range(rng.randrange(1, 7))]
        if i % 3 == 0:
            completions.append(completions[0])
        if i % 4 == 0:
            completions = [c[:1] for c in completions]
        requests.append(ScoringRequest(f"p{i}", ids(1, 40), tuple(completions)))
    return requests


def assert_scores_equal(groups, expected, atol):
    groups = list(groups)
    assert sorted(g.prompt_id for g in groups) == sorted(expected)
    for group in groups:
        for got, want in zip(group.token_logps, expected[group.prompt_id], strict=True):
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, want, atol=atol, rtol=0)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("padding", ["left", "right"])
@pytest.mark.parametrize("short_row", [0, 10_000])
def test_scores_equal_the_padded_full_logits_forward(architecture, padding, short_row, monkeypatch):
    """In both arrangements of attention: fused on each part, and plain products on whole rows."""
    monkeypatch.setattr(scorer, "SHORT_ROW", short_row)
    model = tiny_model(architecture=architecture)
    requests = make_requests()
    expected = naive_logps(model, requests, padding=padding)

    assert_scores_equal(TorchScorer(model).score(requests), expected, atol=1e-5)


@pytest.mark.parametrize("token_budget", [1, 64, 300])
def test_scores_do_not_depend_on_budgets_tiles_and_windows(token_budget):
    model = tiny_model()
    requests = make_requests()
    scorer = TorchScorer(model, token_budget=token_budget, tile_rows=7, window_rows=20)

    assert_scores_equal(scorer.score(iter(requests)), naive_logps(model, requests), atol=1e-5)


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_plain_path_equals_the_padded_full_logits_forward(architecture):
    model = tiny_model(architecture=architecture)
    model._supports_attention_backend = False
    requests = make_requests(8)
    scorer = TorchScorer(model, tile_rows=4)

    assert scorer.plain_reason
    assert_scores_equal(scorer.score(requests), naive_logps(model, requests), atol=1e-5)


def test_soft_capped_model_is_scored_by_its_own_forward():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "gemma2",
        vocab_size=259,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.5,
        final_logit_softcapping=3.0,
        sliding_window=8,
        attn_implementation="eager",
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    requests = make_requests(5)
    scorer = TorchScorer(model)

    assert "softcapping" in scorer.plain_reason
    assert_scores_equal(scorer.score(requests), naive_logps(model, requests), atol=2e-5)


def test_sliding_window_is_packed_inside_the_window_and_exact_beyond_it():
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "mistral",
        vocab_size=259,
        hidden_size=64,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        initializer_range=0.2,
        sliding_window=16,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    requests = make_requests(12)
    lengths = [len(r.prompt_token_ids) + max(map(len, r.completions)) for r in requests]
    assert min(lengths) <= 16 < max(lengths)

    assert_scores_equal(TorchScorer(model).score(requests), naive_logps(model, requests), atol=1e-5)


def test_counting_model_counts_surprises_where_they_are():
    """Tokens counting on cost 0; a wrong token costs 20, and so does the right one after it."""
    model = CountingModel(vocab_size=50, surprise=20.0).eval()
    request = ScoringRequest("p", (3, 4), ((5, 6, 7), (5, 9, 10), (9,)))

    (group,) = TorchScorer(model).score([request])

    np.testing.assert_allclose(group.token_logps[0], [0, 0, 0], atol=1e-5)
    np.testing.assert_allclose(group.token_logps[1], [0, -20, 0], atol=1e-5)
    np.testing.assert_allclose(group.token_logps[2], [-20], atol=1e-5)


def test_bfloat16_scores_stay_near_float32_ones():
    model = tiny_model().bfloat16()
    requests = make_requests(10)
    expected = naive_logps(model.float(), requests)

    groups = list(TorchScorer(model.bfloat16()).score(requests))

    got = np.concatenate([x for g in groups for x in g.token_logps])
    by_id = [x for g in groups for x in expected[g.prompt_id]]
    assert np.abs(got - np.concatenate(by_id)).mean() < 0.05


def test_scoring_leaves_the_models_own_attention_in_place():
    model = tiny_model()
    before = model.config._attn_implementation

    list(TorchScorer(model).score(make_requests(2)))

    assert model.config._attn_implementation == before


def test_a_stream_is_read_one_window_at_a_time():
    taken = []

    def stream():
        for request in make_requests(30):
            taken.append(request.prompt_id)
            yield request

    next(TorchScorer(tiny_model(), window_rows=8).score(stream()))

    assert len(taken) <= 8


def test_the_same_request_twice_is_answered_twice():
    request = make_requests(1)[0]

    one, two = TorchScorer(tiny_model(), token_budget=30).score([request, request])

    for a, b in zip(one.token_logps, two.token_logps, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_request_without_completions_gives_an_empty_group():
    (group,) = TorchScorer(tiny_model()).score([ScoringRequest("none", (3, 4), ())])

    assert group.prompt_id == "none"
    assert group.token_logps == ()


def test_empty_completion_or_prompt_is_refused_by_name():
    scorer = TorchScorer(tiny_model())

    with pytest.raises(ValueError, match="prompt lost: a completion has no tokens"):
        list(scorer.score([ScoringRequest("lost", (3,), ((4,), ()))]))
    with pytest.raises(ValueError, match="prompt bare"):
        list(scorer.score([ScoringRequest("bare", (), ((4,),))]))


def test_too_long_sequence_and_training_mode_are_refused():
    model = tiny_model()

    with pytest.raises(ModelError, match=r"prompt long: .* 513 tokens"):
        list(TorchScorer(model).score([ScoringRequest("long", (3,) * 500, ((4,) * 13,))]))
    with pytest.raises(ModelError, match="eval"):
        TorchScorer(model.train())


def test_two_ways_to_the_log_sum_exp_agree():
    torch.manual_seed(0)
    query, key = torch.randn(3, 6, 5, 16), torch.randn(3, 2, 5, 16)
    mask = torch.arange(5) < torch.tensor([[5], [2], [1]])
    for causal, hidden in ((True, None), (False, mask[:, None, None]), (False, None)):
        fused = _attention_with_lse(query, key, key * 2, 0.3, causal=causal, mask=hidden)
        plain = _plain_attention_with_lse(query, key, key * 2, 0.3, causal=causal, mask=hidden)
        torch.testing.assert_close(fused[0], plain[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(fused[1], plain[1], atol=1e-5, rtol=0)


def test_scorer_implements_the_protocol():
    assert isinstance(TorchScorer(tiny_model()), LogpScorer)
