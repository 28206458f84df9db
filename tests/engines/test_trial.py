"""Models whose formula depends on position, company or length: every path against the plain one."""

import copy

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from cream.engines.plain import PlainSampler
from cream.engines.sampler import TorchSampler
from cream.engines.scorer import TorchScorer
from cream.engines.trial import (
    _packed_agrees,
    fast_form,
    own_logits,
    require_causal,
    trial_ids,
)
from cream.errors import ModelError
from cream.models.hidden import Backbone
from cream.models.precision import in_float32
from cream.protocols import SamplingParams
from cream.testing import tiny_model
from cream.types import SamplingRequest, ScoringRequest

SHAPE = {
    "vocab_size": 259,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
LONGROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "short_factor": [1.0] * 8,
    "long_factor": [3.0] * 8,
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 32,
}
SCALED = {
    "rope_type": "default",
    "rope_theta": 10000.0,
    "llama_4_scaling_beta": 0.5,
    "original_max_position_embeddings": 24,
}
POSITION_DEPENDENT = {
    "window": ("mistral", {"sliding_window": 16}),
    "some windows": ("gemma3_text", {"sliding_window": 16}),
    "longrope": ("llama", {"rope_parameters": LONGROPE}),
    "scaled queries": ("ministral3", {"rope_parameters": SCALED, "sliding_window": None}),
    "two attentions": ("diffllama", {}),
    "sinks": ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}),
    "state": (
        "recurrent_gemma",
        {"attention_window_size": 16, "lru_width": 64, "num_hidden_layers": 3},
    ),
}


def build(kind, settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SHAPE, **settings})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


def rows():
    """Short and long rows, longer than any window, with pad, start and end inside prompts."""
    draw = torch.Generator().manual_seed(3)

    def ids(n):
        return tuple(torch.randint(259, (n,), generator=draw).tolist())

    return [
        ScoringRequest("short", (5, 2, 9, 1), (ids(4), ids(1))),
        ScoringRequest("middle", (2, *ids(20), 2), (ids(9), ids(3))),
        ScoringRequest("long", (1, *ids(60), 2, 2), (ids(30), ids(7))),
    ]


def own_logps(model, request):
    found = []
    for completion in request.completions:
        ids = torch.tensor([[*request.prompt_token_ids, *completion]])
        with torch.inference_mode():
            logps = copy.deepcopy(model)(input_ids=ids, use_cache=False).logits[0].log_softmax(-1)
        start = len(request.prompt_token_ids)
        found.append(logps[start - 1 : -1].gather(1, ids[0, start:, None])[:, 0].numpy())
    return found


@pytest.mark.parametrize("name", POSITION_DEPENDENT)
def test_scores_are_the_models_own_alone_and_in_company(name):
    model = build(*POSITION_DEPENDENT[name])
    company = {g.prompt_id: g.token_logps for g in TorchScorer(copy.deepcopy(model)).score(rows())}

    for request in rows():
        (alone,) = TorchScorer(copy.deepcopy(model)).score([request])
        for true, one, other in zip(
            own_logps(model, request), alone.token_logps, company[request.prompt_id], strict=True
        ):
            np.testing.assert_allclose(one, true, atol=1e-4)
            np.testing.assert_allclose(other, true, atol=1e-4)


@pytest.mark.parametrize("name", POSITION_DEPENDENT)
def test_greedy_completions_are_the_models_own(name):
    """Each token is the largest logit of the whole sequence so far, without any cache."""
    model = build(*POSITION_DEPENDENT[name])
    params = SamplingParams(0.0, 1.0, 40, (0,))
    requests = [SamplingRequest(r.prompt_id, r.prompt_token_ids, (1, 2)) for r in rows()]

    for group in TorchSampler(copy.deepcopy(model)).sample(requests, params):
        prompt = next(r.prompt_token_ids for r in requests if r.prompt_id == group.prompt_id)
        for completion in group.completions:
            ids = list(prompt)
            for token in completion.token_ids:
                with torch.inference_mode():
                    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
                assert logits.max() - logits[token] < 1e-4
                ids.append(token)


def test_what_is_not_fast_says_why():
    assert (
        "queries are scaled"
        in TorchScorer(build(*POSITION_DEPENDENT["scaled queries"])).plain_reason
    )
    assert "swiglu" in TorchSampler(build(*POSITION_DEPENDENT["sinks"])).plain_reason
    assert TorchScorer(tiny_model()).plain_reason == ""


def test_a_factor_hidden_in_the_attention_is_found_by_the_trial():
    """Nothing in the configuration says it; packed, the layer's attention function is ours."""
    model = tiny_model(architecture="gemma")
    attention = model.base_model.layers[1].self_attn
    plain = attention.forward

    def twice_when_alone(*args, **kwargs):
        out, weights = plain(*args, **kwargs)
        return (out if kwargs.get("cream_attention") else 2 * out), weights

    attention.forward = twice_when_alone

    backbone, reach = fast_form(model)
    assert backbone is None
    assert "trial" in reach.reason


def sharp():
    """A model in bfloat16 whose attention decides by little: rounding moves its logits by 0.2."""
    model = tiny_model()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "q_proj" in name or "k_proj" in name:
                weight *= 16
    return model.to(torch.bfloat16)


def test_rounding_alone_sends_no_model_to_the_slow_path():
    """SmolLM2 after fine-tuning was scored 47 times slower for 0.2 of rounding, without a word."""
    model = sharp()
    with torch.inference_mode():
        assert not _packed_agrees(Backbone(model)), "rounding as large as this is what is tried"

    backbone, reach = fast_form(model)

    assert backbone is not None
    assert (backbone.fused, reach.reason) == (True, "")


def test_a_factor_that_float32_would_show_is_found(monkeypatch):
    monkeypatch.setattr("cream.models.hidden.fused_decoder", lambda model: None)
    model = sharp()
    backbone = Backbone(model)
    with torch.inference_mode(), backbone.in_float32():
        assert _packed_agrees(backbone)
    attention = model.base_model.layers[1].self_attn
    plain = attention.forward

    def more_when_alone(*args, **kwargs):
        out, weights = plain(*args, **kwargs)
        return (out if kwargs.get("cream_attention") else 1.5 * out), weights

    attention.forward = more_when_alone

    with torch.inference_mode(), backbone.in_float32():
        assert not _packed_agrees(backbone)
    assert fast_form(model)[0] is None


def test_a_model_run_in_float32_gives_what_its_float32_copy_gives_and_keeps_its_weights():
    model = tiny_model(architecture="gemma").to(torch.bfloat16)
    copied = copy.deepcopy(model).float()
    before = {name: p for name, p in model.named_parameters(remove_duplicate=False)}
    ids = trial_ids(model, 12)
    with torch.inference_mode():
        rounded = own_logits(model, ids)
        with in_float32(model):
            wide = own_logits(model, ids)
        torch.testing.assert_close(wide, own_logits(copied, ids), rtol=0, atol=1e-5)
        assert torch.equal(own_logits(model, ids), rounded)
        part = model.base_model.layers[1].mlp.down_proj
        part.forward = lambda x: x @ x
        with pytest.raises(RuntimeError), in_float32(model):
            own_logits(model, ids)
        del part.forward
        assert torch.equal(own_logits(model, ids), rounded)
    after = dict(model.named_parameters(remove_duplicate=False))
    assert all(after[name] is p for name, p in before.items())


def test_the_slow_path_says_so_once_and_why():
    said = []
    model = build(*POSITION_DEPENDENT["scaled queries"])
    scorer = TorchScorer(model, say=said.append)
    longest = fast_form(model)[1].tokens
    prompt = tuple(range(3, 3 + (longest or 0)))
    list(scorer.score([ScoringRequest(n, prompt, ((5, 6), (7,))) for n in "ab"]))
    sampler = TorchSampler(model, say=said.append)
    params = SamplingParams(0.0, 1.0, 2, (2,))
    list(sampler.sample([SamplingRequest(n, prompt, (1, 2)) for n in "ab"], params))
    assert [text.split()[0] for text in said] == ["scored", "sampled"]
    assert all("queries are scaled" in text and "slower" in text for text in said)


def test_a_cache_that_forgets_is_not_used():
    """A model whose cached forward sees only the newest token samples without its cache."""
    model = tiny_model()
    own = model.forward
    request = SamplingRequest("p", (5, 9, 31, 7), (1,))
    params = SamplingParams(0.0, 1.0, 8, (0,))
    with torch.inference_mode():
        expected = PlainSampler(model).sample(request, params)

    def forgetful(input_ids, past_key_values=None, **kwargs):
        return own(input_ids=input_ids, **kwargs)

    model.forward = forgetful
    with torch.inference_mode():
        assert PlainSampler(model).sample(request, params) == expected


def test_a_model_that_looks_ahead_is_refused_with_a_sentence():
    shape = {"vocab_size": 259, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = AutoConfig.for_model("bert", **shape, intermediate_size=64, initializer_range=0.2)
    model = AutoModelForCausalLM.from_config(config).eval()

    with pytest.raises(ModelError, match="kind bert is not causal"):
        require_causal(model)
    for architecture in ("llama", "gpt2"):
        require_causal(tiny_model(architecture=architecture))
