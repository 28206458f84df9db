import pytest
import torch
from torch import nn
from training_items import make_pairs, pair_batch

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


def test_rows_longer_than_a_sliding_window_are_not_shared():
    model = tiny_model()
    model.config.sliding_window = 16
    assert choose_route(model, layout="auto", longest_row=17).layout == "separate"
    assert choose_route(model, layout="auto", longest_row=16).layout == "shared"


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
