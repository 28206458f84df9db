"""A peft adapter folder is a model like any other: found, checked, merged."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from cream.errors import ModelError
from cream.models.fingerprints import model_fingerprint
from cream.models.folders import check_model_folder, resolve_model
from cream.models.loading import load_config, load_model, load_tokenizer
from cream.models.positions import context_length
from cream.models.saving import save_model
from cream.recipe.model import ModelConfig
from cream.testing import tiny_model_folder

IDS = torch.tensor([[1, 50, 60, 70, 2]])


def make_adapter(base: Path, out: Path) -> torch.Tensor:
    """Write an adapter that changes the base, and return its logits before merging."""
    lora = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
    adapted = get_peft_model(load_model(base), lora)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
        logits = adapted.eval()(input_ids=IDS).logits
    adapted.save_pretrained(str(out))
    return logits


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_model_folder(tmp_path / "base")


def test_adapter_is_merged_into_its_base(base: Path, tmp_path: Path):
    """Float32 addition in another order: 1e-4 on logits of size about 1."""
    expected = make_adapter(base, tmp_path / "adapter")
    folder = resolve_model(ModelConfig(name=str(tmp_path / "adapter")), tmp_path)
    model = load_model(folder)
    with torch.no_grad():
        merged, plain = (m(input_ids=IDS).logits for m in (model, load_model(base)))
    torch.testing.assert_close(merged, expected, atol=1e-4, rtol=1e-4)
    assert (merged - plain).abs().max() > 0.1
    assert type(model) is type(load_model(base))


def test_merged_adapter_saves_as_an_ordinary_model(base: Path, tmp_path: Path):
    make_adapter(base, tmp_path / "adapter")
    model = load_model(tmp_path / "adapter")
    save_model(model, load_tokenizer(tmp_path / "adapter"), tmp_path / "whole")
    shutil.rmtree(base)
    with torch.no_grad():
        logits = [m(input_ids=IDS).logits for m in (model, load_model(tmp_path / "whole"))]
    assert torch.equal(*logits)


def test_adapter_takes_configuration_and_tokenizer_from_its_base(base: Path, tmp_path: Path):
    make_adapter(base, tmp_path / "adapter")
    assert context_length(load_config(tmp_path / "adapter")) == 512
    assert len(load_tokenizer(tmp_path / "adapter")) == 259


def test_incomplete_adapter_is_refused(base: Path, tmp_path: Path):
    make_adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    weights = load_file(file)
    del weights[next(name for name in weights if "layers.1" in name)]
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of its weights .*layers\.1"):
        load_model(tmp_path / "adapter")


def test_pickled_adapter_is_refused(base: Path, tmp_path: Path):
    make_adapter(base, tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(
        tmp_path / "adapter" / "adapter_model.bin"
    )
    with pytest.raises(ModelError, match="pickled"):
        check_model_folder(tmp_path / "adapter")


def test_adapter_whose_base_is_gone_is_refused(base: Path, tmp_path: Path):
    make_adapter(base, tmp_path / "adapter")
    shutil.rmtree(base)
    with pytest.raises(ModelError, match="does not exist any more"):
        load_model(tmp_path / "adapter")


def test_adapter_without_base_is_refused(base: Path, tmp_path: Path):
    make_adapter(base, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    config = {**json.loads(file.read_text()), "base_model_name_or_path": None}
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="base_model_name_or_path is empty"):
        load_model(tmp_path / "adapter")


def test_fingerprint_of_an_adapter_covers_its_base(base: Path, tmp_path: Path):
    make_adapter(base, tmp_path / "adapter")
    before = model_fingerprint(tmp_path / "adapter")
    shutil.rmtree(base)
    tiny_model_folder(base, seed=1)
    assert model_fingerprint(tmp_path / "adapter") != before
