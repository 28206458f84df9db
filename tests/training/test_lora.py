import pytest
import torch

from cream.errors import ModelError
from cream.recipe.training import LoraConfig
from cream.testing import tiny_model
from cream.training.lora import adapters

IDS = torch.arange(12)[None]


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "gemma", "gpt2"])
def test_merged_weights_equal_the_adapter_forward(architecture):
    model = tiny_model(architecture=architecture)
    before = model(input_ids=IDS).logits.detach()
    with adapters(model, LoraConfig(rank=4, dropout=0.1), seed=0):
        model.eval()
        torch.testing.assert_close(model(input_ids=IDS).logits, before, rtol=0, atol=0)
        trainable = [n for n, p in model.named_parameters() if p.requires_grad]
        assert trainable
        assert all("lora_" in n for n in trainable)
        torch.manual_seed(1)
        for name, p in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(p, std=0.1)
        adapted = model(input_ids=IDS).logits.detach()
    assert (adapted - before).abs().max() > 1e-2
    torch.testing.assert_close(model(input_ids=IDS).logits, adapted, rtol=1e-4, atol=1e-4)
    assert not any("lora" in n for n, _ in model.named_parameters())


def test_the_first_matrix_follows_the_seed():
    def first(seed):
        model = tiny_model()
        with adapters(model, LoraConfig(rank=4), seed=seed):
            return next(p.clone() for n, p in model.named_parameters() if "lora_A" in n)

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_unknown_target_modules_are_an_error():
    config = LoraConfig(target_modules=("no_such_layer",))
    with pytest.raises(ModelError, match="Use all-linear"), adapters(tiny_model(), config, seed=0):
        pass


@pytest.mark.parametrize("targets", [("lm_head",), ("q_proj", "lm_head"), ("embed_tokens",)])
def test_adapters_of_a_tied_head_are_refused_by_name(targets):
    config = LoraConfig(target_modules=targets)
    with (
        pytest.raises(ModelError, match=f"target_modules: '{targets[-1]}' is the head, tied"),
        adapters(tiny_model(), config, seed=0),
    ):
        pass


def test_adapters_of_ordinary_layers_are_not_refused():
    with adapters(tiny_model(), LoraConfig(target_modules=("q_proj", "down_proj")), seed=0):
        pass
