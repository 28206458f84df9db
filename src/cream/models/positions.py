"""Up to which length a model may be computed in another arrangement than its own, by proof.

The fast forms (packed streams, fused layers, a prompt shared by its completions) hand a model's
attention tokens of many sequences at once and let every token see all before it. A trial shows
whether that is the model's formula, but only for the tokens of the trial: a window of 4,096, a
factor that begins at position 8,192 or frequencies that change with the longest neighbour are not
seen in thirty. Those are read from the configuration here. A setting that this module does not know
and that is not off allows no fast form at all: the model's own forward is slower, and right.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

CONTEXT_KEYS = ("max_position_embeddings", "n_positions", "max_sequence_length", "seq_length")
"""Names under which architectures store the longest sequence they were built for."""

STATIC_ROPES = frozenset({"default", "linear", "llama3", "yarn", "proportional"})
"""Rotary frequencies that are fixed when the model is built."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_ROPE_KEYS = _words(
    """
    rope_type type rope_theta factor partial_rotary_factor low_freq_factor high_freq_factor
    beta_fast beta_slow mscale mscale_all_dim attention_factor truncate
    original_max_position_embeddings short_factor long_factor short_mscale long_mscale
    max_position_embeddings
    """
)
_KINDS = frozenset({"full_attention", "attention", "global", "sliding_attention"})
_WINDOWED = frozenset({"sliding_attention", "chunked_attention", "local", "local_attention"})

_VISIBLE = _words(
    """
    vocab_size tie_word_embeddings pad_token_id bos_token_id eos_token_id sep_token_id
    eod_token_id decoder_start_token_id forced_eos_token_id use_cache initializer_range init_std
    pretraining_tp max_position_embeddings n_positions n_ctx max_sequence_length seq_length
    max_seq_len original_max_position_embeddings type_vocab_size vision_config is_decoder
    hidden_size d_model n_embd num_hidden_layers n_layer n_layers num_layers num_attention_heads
    n_head n_heads num_heads num_key_value_heads num_kv_heads multi_query head_dim
    intermediate_size n_inner ffn_dim ffn_hidden_size word_embed_proj_dim hidden_act
    hidden_activation activation_function activation rms_norm_eps layer_norm_eps
    layer_norm_epsilon norm_eps norm_epsilon layernorm_epsilon attention_bias mlp_bias use_bias
    bias qkv_bias lm_head_bias attention_dropout hidden_dropout dropout resid_pdrop embd_pdrop
    attn_pdrop classifier_dropout hidden_dropout_prob attention_probs_dropout_prob
    activation_dropout residual_dropout embedding_dropout layerdrop summary_type summary_use_proj
    summary_activation summary_proj_to_labels summary_first_dropout summary_last_dropout
    use_qk_norm qk_layernorm qk_norm use_post_norm do_layer_norm_before use_parallel_residual
    parallel_attn num_ln_in_parallel_attn new_decoder_architecture scale_attn_weights
    query_pre_attn_scalar attention_multiplier residual_multiplier embedding_multiplier
    logits_scaling logit_scale scale_embedding head_dim_ratio rope_theta rope_interleave
    rotary_pct rotary_dim rotary_emb_base partial_rotary_factor no_rope_layers
    no_rope_layer_interval q_lora_rank kv_lora_rank qk_rope_head_dim qk_nope_head_dim qk_head_dim
    v_head_dim num_experts num_local_experts n_routed_experts n_shared_experts num_shared_experts
    moe_num_experts moe_num_shared_experts num_experts_per_tok num_experts_per_token moe_topk
    moe_k moe_intermediate_size shared_expert_intermediate_size shared_intermediate_size
    intermediate_size_mlp interleave_moe_layer_step moe_layers norm_topk_prob topk_group n_group
    topk_method routed_scaling_factor first_k_dense_replace num_dense_layers mlp_layer_types
    mlp_only_layers decoder_sparse_step scoring_func route_scale output_router_logits
    router_aux_loss_coef router_jitter_noise aux_loss_coef input_jitter_noise
    moe_layer_start_index moe_layer_end_index moe_layer_interval moe_norm_min
    num_nextn_predict_layers use_grouped_mm reorder_and_upcast_attn attention_softmax_in_fp32
    scale_attention_softmax_in_fp32 sliding_window_pattern _sliding_window_pattern
    max_window_layers use_sliding_window global_attn_every_n_layers attention_chunk_size
    floor_scale attn_scale window_size sliding_window layer_types attention_types attention_layers
    rope_parameters rope_scaling attn_temperature_tuning default_theta default_rope_theta
    """
)
"""Settings whose whole effect shows in a trial of a few tokens, and those read below."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How long a sequence may be."""

    tokens: int | None
    """At most this many; None without limit, 0 for none at all."""
    reason: str = ""
    """Why there is a limit: a phrase without a full stop; empty without one."""

    def holds(self, tokens: int) -> bool:
        """Tell whether a sequence of so many tokens is within it."""
        return self.tokens is None or tokens <= self.tokens


def text_config(config: Any) -> Any:
    """Return the part of a configuration that describes the language model (Gemma 3, Llama 4)."""
    return config.get_text_config() if hasattr(config, "get_text_config") else config


def context_length(config: Any) -> int | None:
    """Return the longest sequence (prompt and completion, in tokens) the model was built for.

    None means that the configuration states no limit (recurrent models).
    """
    shape = text_config(config)
    for key in CONTEXT_KEYS:
        value = getattr(shape, key, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def fast_reach(config: Any) -> Reach:
    """Longest sequence that plain causal attention computes as the model does, in any company.

    Within it a token's result depends on the tokens before it in its own sequence and on their
    positions, by a formula that a short trial shows whole.

    Args:
        config: A model's configuration; of a model with images, its text part is what counts.
    """
    shape = text_config(config)
    limits = [*_unknown(shape), *_windows(shape), *_ropes(shape), *_scaled_queries(shape)]
    return _least(limits)


def company_reach(config: Any) -> Reach:
    """Longest sequence whose result in the model's own padded batch is that of the sequence alone.

    Beyond it a sequence must go through the model by itself.
    """
    return _least([*_ropes(text_config(config))])


def _least(limits: list[Reach]) -> Reach:
    return min(limits, key=lambda reach: reach.tokens or 0, default=Reach(None))


def _unknown(config: Any) -> Iterator[Reach]:
    """Settings of the architecture that are on and that nothing here knows."""
    if getattr(config, "is_encoder_decoder", False):
        yield Reach(0, "it is an encoder-decoder")
    names = {field.name for field in fields(config)} if is_dataclass(config) else set(vars(config))
    for name in sorted(names - _VISIBLE - _common()):
        value = getattr(config, name, None)
        if not _is_off(value):
            yield Reach(0, f"its config sets {name}, which the fast forms do not know")


def _is_off(value: Any) -> bool:
    return value is None or value is False or value in (0, 1.0) or value in ([], {}, ())


def _common() -> set[str]:
    """What every configuration of transformers has, architecture or not."""
    from transformers import PretrainedConfig

    return {field.name for field in fields(PretrainedConfig)} | set(vars(PretrainedConfig()))


def _windows(config: Any) -> Iterator[Reach]:
    kinds = _kinds(config)
    if kinds is not None and (other := kinds - _KINDS - _WINDOWED):
        yield Reach(0, f"it has layers of kind {', '.join(sorted(other))}")
    if kinds is not None and not kinds & _WINDOWED:
        return
    for name in ("sliding_window", "window_size", "attention_chunk_size"):
        value = getattr(config, name, None)
        off = name == "sliding_window" and not getattr(config, "use_sliding_window", True)
        if isinstance(value, int) and value > 0 and not off:
            yield Reach(value, f"a layer sees {value} tokens back ({name}), the sequence is longer")


def _kinds(config: Any) -> set[str] | None:
    """Kinds of the layers; None if the configuration does not list them."""
    listed = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)
    return None if listed is None else set(map(str, listed))


def _ropes(config: Any) -> Iterator[Reach]:
    for rope in _rope_parameters(config):
        kind = rope.get("rope_type", rope.get("type", "default"))
        if kind in STATIC_ROPES:
            continue
        original = rope.get("original_max_position_embeddings")
        original = original or getattr(config, "original_max_position_embeddings", None)
        if kind == "dynamic":
            original = context_length(config)
        if kind not in ("dynamic", "longrope") or not original:
            yield Reach(0, f"its rotary positions are of kind {kind}, which is not known here")
        else:
            yield Reach(
                int(original),
                f"beyond {original} tokens its rotary frequencies depend on the longest sequence "
                f"of a batch ({kind})",
            )


def _scaled_queries(config: Any) -> Iterator[Reach]:
    """Factors on queries that begin at some position, and rotary settings that are not known."""
    if getattr(config, "attn_temperature_tuning", None):
        floor = int(config.floor_scale) - 1
        yield Reach(floor, f"from position {floor} on its queries are scaled")
    for rope in _rope_parameters(config):
        if rope.get("llama_4_scaling_beta"):
            original = int(rope.get("original_max_position_embeddings") or 0)
            yield Reach(original, f"from position {original} on its queries are scaled")
        for name in sorted(set(rope) - _ROPE_KEYS - {"llama_4_scaling_beta"}):
            if not _is_off(rope[name]):
                yield Reach(0, f"its rotary positions set {name}, which is not known here")


def _rope_parameters(config: Any) -> list[Mapping[str, Any]]:
    """Rotary settings, of each kind of layer if they differ."""
    found: list[Mapping[str, Any]] = []
    for name in ("rope_parameters", "rope_scaling"):
        value = getattr(config, name, None)
        if isinstance(value, Mapping) and value:
            nested = [part for part in value.values() if isinstance(part, Mapping)]
            found += nested or [value]
    return found
