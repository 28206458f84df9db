import copy

import pytest
import torch
from torch import nn
from training_items import make_pairs, pair_batch
from transformers import AutoConfig, AutoModelForCausalLM

from cream.errors import ModelError
from cream.testing import CountingModel, tiny_model
from cream.training.batches import Row, lay_out
from cream.training.forward import by_hidden, by_logits, choose_route, inference_behaviour

ARCHITECTURES = ["llama", "qwen2", "gemma", "gpt2"]


def naive_loss(model, pairs):
    """Plainest possible: one sequence at a time, full logits, log_softmax, own shift; the mean
    over pairs of softplus(-(chosen - rejected) / 10)."""
    total = torch.zeros(())
    for pair in pairs:
        sums = []
        for sequence in pair.sequences.values():
            ids = torch.tensor([pair.prompt_token_ids + sequence.token_ids])
            logps = model(input_ids=ids).logits[0, :-1].log_softmax(-1)
            picked = logps.gather(1, ids[0, 1:, None])[:, 0]
            sums.append(picked[len(pair.prompt_token_ids) - 1 :].sum())
        total = total + nn.functional.softplus(-(sums[0] - sums[1]) / 10)
    return total / len(pairs)


def batched_loss(model, batch, forward):
    inputs = batch.inputs(forward(model, batch.tokens).token_logps)
    gap = inputs["chosen"].logps - inputs["rejected"].logps
    return nn.functional.softplus(-gap / 10).mean()


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("forward", [by_hidden, by_logits])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_and_gradients_equal_one_sequence_at_a_time(architecture, forward, shared):
    model = tiny_model(architecture=architecture)
    pairs = make_pairs(6)
    slow = naive_loss(model, pairs)
    expected = gradients(model, slow)
    fast = batched_loss(model, pair_batch(pairs, shared=shared), forward)
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=0)
    for name, gradient in gradients(model, fast).items():
        error = (gradient - expected[name]).norm() / expected[name].norm().clamp_min(1e-6)
        assert error < 1e-5, name


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_known_architectures_take_both_shortcuts(architecture, attention):
    model = tiny_model(architecture=architecture)
    model.set_attn_implementation(attention)
    route = choose_route(model, layout="auto", longest_row=50)
    assert (route.head, route.layout) == ("hidden", "shared")


class DeafToMasks(nn.Module):
    """A causal model that takes no 4-D mask: it sees every earlier token of its row."""

    def __init__(self):
        super().__init__()
        self.model = tiny_model()
        self.config = self.model.config

    def forward(self, input_ids, attention_mask, position_ids, use_cache):
        return self.model(input_ids=input_ids, position_ids=position_ids)


def test_a_model_that_ignores_the_mask_falls_back_to_separate_rows_with_the_right_loss():
    model, pairs = DeafToMasks(), make_pairs(4)
    route = choose_route(model, layout="auto", longest_row=50)
    assert (route.head, route.layout) == ("logits", "separate")
    fast = batched_loss(model, pair_batch(pairs, shared=False), route.forward)
    torch.testing.assert_close(fast, naive_loss(model.model, pairs), rtol=1e-5, atol=0)
    wrong = batched_loss(model, pair_batch(pairs, shared=True), route.forward)
    assert (wrong - fast).abs() > 1e-3


def test_demanding_shared_rows_of_a_model_that_cannot_is_an_error():
    with pytest.raises(ModelError, match="Set pair_layout to auto or separate"):
        choose_route(DeafToMasks(), layout="shared", longest_row=50)


def test_sequences_longer_than_a_sliding_window_are_neither_shared_nor_fused():
    model = tiny_model()
    model.config.sliding_window = 16
    assert choose_route(model, layout="auto", longest_row=17).layout == "separate"
    assert choose_route(model, layout="auto", longest_row=16).layout == "shared"
    assert choose_route(model, fused=True, longest_row=17).decoder is None


def test_a_model_whose_small_error_adds_up_over_a_long_completion_is_run_by_its_own_logits():
    """2e-4 nats a token are 0.004 over 20 tokens and 0.1 over 500."""
    model = tiny_model()
    forward = model.forward

    def slightly_other(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = output.logits * (1 + 2e-4 / output.logits.abs().max())
        return output

    model.forward = slightly_other
    short, long = (choose_route(model, longest_row=n).head for n in (20, 5000))
    assert (short, long) == ("hidden", "logits")


def test_a_model_that_changes_its_logits_after_the_head_keeps_its_own_logits():
    model = tiny_model()
    forward = model.forward

    def softcapped(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = 2 * torch.tanh(output.logits / 2)
        return output

    model.forward = softcapped
    assert choose_route(model).head == "logits"


def test_counting_model_counts_first_and_last_completion_tokens():
    """Prompt 5 6; 7 8 9 counts on: 0 surprises. 9 8 9 is wrong at the first token and then at 8
    (after 9): 2. 7 8 2 is wrong at the last token, which has the pad and end id: 1."""
    model = CountingModel(vocab_size=50, surprise=20.0)
    rows = [Row((5, 6), ((7, 8, 9),)), Row((5, 6), ((9, 8, 9),)), Row((1, 5, 6), ((7, 8, 2),))]
    batch = lay_out(rows)
    sums = batch.table(by_logits(model, batch).token_logps).sum(-1)
    torch.testing.assert_close(sums, torch.tensor([0.0, -40.0, -20.0]), atol=1e-4, rtol=0)


def test_dropout_is_off_and_the_mode_comes_back():
    model = tiny_model(architecture="gpt2")
    model.train()
    model.transformer.drop.p = 0.5
    with inference_behaviour(model, gradient_checkpointing=False):
        assert not any(module.training for module in model.modules())
    assert all(module.training for module in model.modules())


def test_checkpointing_recomputes_and_gives_the_same_gradients_without_dropout():
    model, pairs = tiny_model(architecture="gpt2"), make_pairs(4)
    for block in model.transformer.h:
        block.mlp.dropout.p = 0.5
    batch = pair_batch(pairs, shared=True)
    expected = gradients(model, batched_loss(model, batch, by_hidden))
    calls = []
    model.transformer.h[0].attn.register_forward_hook(lambda *_: calls.append(1))
    with inference_behaviour(model, gradient_checkpointing=True):
        got = gradients(model, batched_loss(model, batch, by_hidden))
    assert len(calls) == 2
    for name, gradient in got.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-5, atol=1e-7)
    assert not model.is_gradient_checkpointing


def build(kind, **settings):
    torch.manual_seed(0)
    shape = {
        "vocab_size": 259,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "initializer_range": 0.2,
        "pad_token_id": 2,
        "eos_token_id": 2,
    }
    config = AutoConfig.for_model(kind, **{**shape, **settings})
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


LONGROPE = {
    "rope_type": "longrope",
    "factor": 4.0,
    "short_factor": [1.0] * 8,
    "long_factor": [3.0] * 8,
    "rope_theta": 10000.0,
    "original_max_position_embeddings": 32,
}


@pytest.mark.parametrize("forward", [by_hidden, by_logits])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("mistral", {"sliding_window": 16}),
        ("llama", {"rope_parameters": LONGROPE}),
        ("gemma3_text", {"sliding_window": 16}),
        ("gpt_oss", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 16}),
    ],
)
def test_a_short_row_beside_a_long_one_is_trained_as_it_is_alone(kind, settings, forward):
    """Windows shorter than a row, frequencies that depend on the longest row, sinks; pad and end
    stand inside the prompts."""
    model = build(kind, **settings)
    rows = [Row((5, 2, 9, 2), ((7, 2),)), Row((2, *range(3, 60), 2), (tuple(range(90, 120)),))]

    together = forward(model, lay_out(rows)).token_logps

    alone = torch.cat([by_logits(copy.deepcopy(model), lay_out([row])).token_logps for row in rows])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings", "reach"),
    [
        ("mistral", {"sliding_window": 40}, 40),
        ("llama", {"rope_parameters": LONGROPE}, 32),
        ("gpt_neo", {"window_size": 40, "num_layers": 2, "attention_types": [[["local"], 2]]}, 40),
    ],
)
def test_shortcuts_end_where_the_configuration_no_longer_proves_them(kind, settings, reach):
    if kind == "gpt_neo":
        config = AutoConfig.for_model(kind, vocab_size=259, hidden_size=64, num_heads=4, **settings)
        model = AutoModelForCausalLM.from_config(config).eval()
    else:
        model = build(kind, **settings)
    inside, beyond = (
        choose_route(model, layout="auto", longest_row=n, fused=True) for n in (reach, reach + 1)
    )

    assert beyond.layout == "separate"
    assert beyond.decoder is None
    assert inside.layout == "shared"
    assert (inside.decoder is None) == (kind == "gpt_neo")


def test_the_vocabulary_is_that_of_the_text_part():
    text = build("gemma3_text").config.to_dict() | {"model_type": "gemma3_text"}
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    config = AutoConfig.for_model(
        "gemma3",
        text_config=text,
        vision_config={**vision, "num_attention_heads": 2, "image_size": 28, "patch_size": 14},
        mm_tokens_per_image=1,
        image_token_index=10,
        boi_token_index=11,
        eoi_token_index=12,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()

    assert choose_route(model, layout="auto", longest_row=30).head in ("hidden", "logits")
