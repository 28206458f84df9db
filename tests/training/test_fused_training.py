"""The fused form against one sequence at a time through the model itself."""

import pytest
import torch
from test_forward import batched_loss, naive_loss
from training_items import make_examples, make_pairs, pair_batch

from cream.algorithms.preference import supervised
from cream.models.fused_decoder import fused_decoder
from cream.recipe.training import SftConfig
from cream.testing import tiny_model
from cream.training.forward import FUSED_ROW, Computed, choose_route
from cream.training.fused_training import FusedTraining, fits
from cream.training.train import train


def fused_training(model, dtype=torch.float32):
    decoder = fused_decoder(model)
    assert decoder is not None
    return FusedTraining(model, decoder, dtype)


def by_fused(fused, batch):
    return Computed(*fused.forward(batch))


def untied(architecture):
    from transformers import AutoModelForCausalLM

    config = tiny_model(architecture=architecture).config
    config.tie_word_embeddings = False
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_loss_and_gradients_equal_one_sequence_at_a_time(architecture, shared, tied):
    model = tiny_model(architecture=architecture) if tied else untied(architecture)
    pairs = make_pairs(6)
    slow = naive_loss(model, pairs)
    slow.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}

    fused = fused_training(model)
    fast = batched_loss(fused, pair_batch(pairs, shared=shared), by_fused)
    fast.backward()

    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=0)
    for name, p in model.named_parameters():
        error = (p.grad - expected[name]).norm() / expected[name].norm().clamp_min(1e-6)
        assert error < 1e-5, name


def test_gradients_of_micro_batches_add_up_and_can_be_cleared():
    model = tiny_model()
    fused = fused_training(model)
    pairs = make_pairs(4)
    for part in (pairs[:1], pairs[1:]):
        loss = batched_loss(fused, pair_batch(part, shared=True), by_fused)
        (loss * len(part)).backward()
    added = {name: p.grad.clone() for name, p in model.named_parameters()}

    fused.clear_gradients()
    assert all(p.grad.abs().sum() == 0 for p in model.parameters())
    (batched_loss(fused, pair_batch(pairs, shared=True), by_fused) * 4).backward()

    for name, p in model.named_parameters():
        torch.testing.assert_close(p.grad, added[name], rtol=1e-4, atol=1e-6)


def test_bfloat16_gradients_arrive_in_float32_and_point_the_same_way():
    model = tiny_model()
    batch = pair_batch(make_pairs(6), shared=True)
    exact = fused_training(model)
    batched_loss(exact, batch, by_fused).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}

    rounded = fused_training(model, torch.bfloat16)
    batched_loss(rounded, batch, by_fused).backward()

    for name, p in model.named_parameters():
        assert p.grad.dtype == torch.float32
        cosine = torch.cosine_similarity(p.grad.flatten(), expected[name].flatten(), dim=0)
        assert cosine > 0.99, name


def test_publishing_rounds_the_masters_into_what_computes():
    model = tiny_model()
    fused = fused_training(model, torch.bfloat16)
    batch = pair_batch(make_pairs(3), shared=True)
    before = batched_loss(fused, batch, by_fused)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)

    assert batched_loss(fused, batch, by_fused) == before
    fused.publish()

    fresh = fused_training(model, torch.bfloat16)
    assert batched_loss(fused, batch, by_fused) == batched_loss(fresh, batch, by_fused)
    assert batched_loss(fused, batch, by_fused) != before


def test_only_a_model_that_trains_whole_with_short_rows_takes_the_fused_form():
    model = tiny_model()
    assert choose_route(model, longest_row=FUSED_ROW, fused=True).decoder is not None
    assert choose_route(model, longest_row=FUSED_ROW + 1, fused=True).decoder is None
    assert choose_route(model, longest_row=FUSED_ROW, fused=False).decoder is None
    model.base_model.layers[0].mlp.up_proj.weight.requires_grad_(False)
    assert not fits(model)
    assert choose_route(model, longest_row=FUSED_ROW, fused=True).decoder is None


def test_training_twice_in_one_process_starts_from_the_same_model():
    """The second training meets parameters that are views already."""
    twice, once = tiny_model(), tiny_model()
    settings = SftConfig(epochs=1)
    train(twice, make_examples(4), supervised(), settings, seed=0)
    assert all(p.grad is None for p in twice.parameters())
    weights = {name: p.detach().clone() for name, p in twice.named_parameters()}
    once.load_state_dict(weights, strict=False)

    train(twice, make_examples(4, seed=1), supervised(), settings, seed=0)
    train(once, make_examples(4, seed=1), supervised(), settings, seed=0)

    for (name, a), b in zip(twice.named_parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6, msg=name)
