"""What a configuration proves, and what it does not, about sequences of some length."""

from types import SimpleNamespace

import pytest
from transformers import AutoConfig

from cream.models.positions import Reach, company_reach, context_length, fast_reach

LONGROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "short_factor": [1.0] * 8,
    "long_factor": [3.0] * 8,
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize(
    ("kind", "settings", "tokens", "said"),
    [
        ("llama", {}, None, ""),
        ("qwen2", {}, None, ""),
        ("gpt2", {}, None, ""),
        ("mistral", {"sliding_window": 100}, 100, "sliding_window"),
        ("mistral", {"sliding_window": None}, None, ""),
        ("qwen2", {"sliding_window": 100, "use_sliding_window": False}, None, ""),
        ("gemma3_text", {"sliding_window": 100}, 100, "sliding_window"),
        ("gpt_neo", {"window_size": 100}, 100, "window_size"),
        ("llama4_text", {"attention_chunk_size": 100}, 100, "attention_chunk_size"),
        ("llama4_text", {"floor_scale": 50}, 49, "queries are scaled"),
        ("llama", {"rope_parameters": LONGROPE}, 32, "longrope"),
        ("gemma2", {}, 0, "attn_logit_softcapping"),
        ("gpt_oss", {}, 0, "swiglu"),
        ("mamba", {}, 0, "its config sets"),
        ("recurrent_gemma", {}, 0, "attention_window_size"),
        ("t5", {}, 0, "encoder-decoder"),
    ],
)
def test_the_reach_of_fast_forms_is_read_from_the_configuration(kind, settings, tokens, said):
    reach = fast_reach(AutoConfig.for_model(kind, **settings))

    assert reach.tokens == tokens
    assert said in reach.reason
    assert bool(reach.reason) == (tokens is not None)


def test_the_text_part_counts_in_a_model_with_images():
    text = {"sliding_window": 64, "vocab_size": 259, "max_position_embeddings": 300}
    config = AutoConfig.for_model("gemma3", text_config=text)

    assert fast_reach(config).tokens == 64
    assert context_length(config) == 300


def test_an_unknown_setting_allows_nothing_unless_it_is_off():
    def config(**more):
        return SimpleNamespace(hidden_size=4, max_position_embeddings=8, **more)

    assert fast_reach(config()) == Reach(None)
    assert fast_reach(config(new_kind_of_window=7)).tokens == 0
    assert "new_kind_of_window" in fast_reach(config(new_kind_of_window=7)).reason
    assert fast_reach(config(new_kind_of_window=None)) == Reach(None)
    assert fast_reach(config(rope_parameters={"rope_type": "spiral"})).tokens == 0
    assert fast_reach(config(rope_parameters={"rope_type": "default", "twist": 2})).tokens == 0
    assert fast_reach(config(layer_types=["full_attention", "lightning"])).tokens == 0


def test_the_company_of_longer_sequences_matters_where_frequencies_depend_on_length():
    dynamic = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    config = AutoConfig.for_model("llama", max_position_embeddings=64, rope_parameters=dynamic)

    assert company_reach(config).tokens == 64
    assert company_reach(AutoConfig.for_model("llama", rope_parameters=LONGROPE)).tokens == 32
    assert company_reach(AutoConfig.for_model("mistral", sliding_window=9)) == Reach(None)


def test_a_reach_holds_up_to_its_last_token():
    assert Reach(5, "why").holds(5)
    assert not Reach(5, "why").holds(6)
    assert Reach(None).holds(10**9)
    assert not Reach(0, "why").holds(1)
