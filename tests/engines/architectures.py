"""Tiny random models of the causal architectures of transformers, built from one set of sizes."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES: dict[str, Any] = {
    "vocab_size": 259,
    "hidden_size": 64,
    "d_model": 64,
    "n_embd": 64,
    "lru_width": 64,
    "word_embed_proj_dim": 64,
    "intermediate_size": 96,
    "ffn_dim": 96,
    "num_hidden_layers": 4,
    "num_layers": 4,
    "n_layer": 4,
    "n_layers": 4,
    "num_attention_heads": 4,
    "num_heads": 4,
    "n_head": 4,
    "n_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rotary_dim": 8,
    "max_position_embeddings": 256,
    "n_positions": 256,
    "max_seq_len": 256,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
    "sliding_window": 16,
    "window_size": 16,
    "attention_window_size": 16,
    "attention_chunk_size": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_k": 2,
    "moe_topk": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 16,
    "first_k_dense_replace": 1,
    "is_decoder": True,
}
"""Sizes by every name that an architecture may have for them; windows shorter than the rows."""

OF_KIND: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 2]]},
    "bert": {"is_decoder": False},
    "ministral3": {
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10000.0,
            "llama_4_scaling_beta": 0.5,
            "original_max_position_embeddings": 24,
        }
    },
    "phi3": {
        "rope_parameters": {
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
            "factor": 8.0,
            "short_factor": [1.0] * 8,
            "long_factor": [3.0] * 8,
            "original_max_position_embeddings": 32,
        },
        "original_max_position_embeddings": 32,
    },
    "gemma2": {"final_logit_softcapping": 3.0, "attn_logit_softcapping": 3.0},
}

_NAMES = """
    afmoe apertus arcee aria_text bert biogpt bitnet bloom codegen cohere
    cohere2 cwm deepseek_v2 deepseek_v3 diffllama doge ernie4_5 ernie4_5_moe exaone exaone4
    falcon falcon_mamba flex_olmo gemma gemma2 gemma3_text glm glm4 glm4_moe gpt2 gpt_bigcode
    gpt_neo gpt_neox gpt_oss gptj granite granitemoe granitemoeshared helium hunyuan_v1_dense
    internlm3 jamba jetmoe lfm2 llama llama4_text mamba minimax minimax_m2 ministral ministral3
    mistral mixtral mpt nanochat nemotron olmo olmo2 olmo3 olmoe openai-gpt opt persimmon phi
    phi3 phimoe qwen2 qwen2_moe qwen3 qwen3_moe recurrent_gemma rwkv seed_oss smollm3 solar_open
    stablelm starcoder2 t5 vaultgemma xglm xlnet xlstm youtu
"""
KINDS = tuple(_NAMES.split())


def tiny(kind: str) -> Any:
    """A random model of this architecture in float32.

    Raises:
        Exception: Whatever transformers says if it has no such causal language model.
    """
    default = AutoConfig.for_model(kind)
    names = {field.name for field in dataclasses.fields(default)} | set(default.attribute_map)
    off = {"sliding_window", "q_lora_rank", "window_size"}
    sizes = {
        name: value
        for name, value in SIZES.items()
        if name in names and not (name in off and getattr(default, name, None) is None)
    }
    config = AutoConfig.for_model(kind, **{**sizes, **OF_KIND.get(kind, {})})
    with torch.device("meta"):
        shape = AutoModelForCausalLM.from_config(config)
    assert sum(p.numel() for p in shape.parameters()) < 10_000_000, f"{kind} is not tiny"
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
