"""Models survive the way to disk and back; what is incomplete is refused instead of made up."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cream.errors import ModelError
from cream.models.loading import (
    count_parameters,
    generation_eos_ids,
    load_config,
    load_model,
    load_tokenizer,
)
from cream.models.positions import context_length
from cream.models.saving import save_model
from cream.testing import CHAT_TEMPLATE, tiny_model, tiny_model_folder, tiny_tokenizer

ARCHITECTURES = ["llama", "qwen2", "gemma", "gpt2"]
IDS = torch.tensor([[1, 50, 60, 70, 2]])


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tiny"))


def logits(model: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        return model(input_ids=IDS).logits


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_saved_model_loads_to_the_same_function(architecture: str, tmp_path: Path):
    model = tiny_model(architecture=architecture)
    save_model(model, tiny_tokenizer(), tmp_path / "m")
    loaded = load_model(tmp_path / "m")
    assert not loaded.training
    assert torch.equal(logits(loaded), logits(model))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_tied_embedding_is_stored_once_and_stays_tied(architecture: str, tmp_path: Path):
    model = tiny_model(architecture=architecture)
    for dtype in (torch.float32, torch.bfloat16):
        out = tmp_path / str(dtype)
        save_model(model, tiny_tokenizer(), out, dtype=dtype)
        stored = load_file(out / "model.safetensors")
        assert sum(t.numel() for t in stored.values()) == count_parameters(model)
        loaded: Any = load_model(out)
        assert loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight


def test_ordinary_library_loads_what_was_saved(tmp_path: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = tiny_model()
    model.generation_config.max_new_tokens = 7
    save_model(model, tiny_tokenizer(), tmp_path / "m", card="# A card\n")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "m")
    assert torch.equal(logits(loaded), logits(model))
    assert loaded.generation_config.max_new_tokens == 7
    assert AutoTokenizer.from_pretrained(tmp_path / "m").chat_template == CHAT_TEMPLATE
    assert (tmp_path / "m" / "README.md").read_text() == "# A card\n"
    written = (tmp_path / "m" / "config.json").read_text()
    assert str(tmp_path) not in written


def test_bfloat16_on_disk_rounds_and_halves_and_leaves_the_model_alone(tmp_path: Path):
    model = tiny_model()
    before = logits(model)
    save_model(model, tiny_tokenizer(), tmp_path / "half", dtype=torch.bfloat16)
    save_model(model, tiny_tokenizer(), tmp_path / "full")
    assert model.dtype == torch.float32
    assert torch.equal(logits(model), before)
    config = json.loads((tmp_path / "half" / "config.json").read_text())
    assert config["dtype"] == "bfloat16"
    rounded = load_model(tmp_path / "half")
    assert rounded.dtype == torch.float32
    exact = dict(model.named_parameters())
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter, exact[name].bfloat16().float())
    sizes = [(tmp_path / m / "model.safetensors").stat().st_size for m in ("half", "full")]
    assert sizes[0] == pytest.approx(sizes[1] / 2, rel=0.02)


def test_dtype_in_memory_is_the_one_asked_for(folder: Path):
    assert load_model(folder, dtype=torch.bfloat16).dtype == torch.bfloat16


def test_existing_folder_is_not_overwritten(folder: Path):
    with pytest.raises(ModelError, match="exists already"):
        save_model(tiny_model(), tiny_tokenizer(), folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(
    value: float, folder: Path, tmp_path: Path
):
    model = tiny_model()
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] = value
    with pytest.raises(ModelError, match=r"not saved: .* \(first: model\.layers\.1\.mlp\.up_proj"):
        save_model(model, tiny_tokenizer(), tmp_path / "m")
    assert not (tmp_path / "m").exists()

    model.save_pretrained(folder)
    for dtype in (torch.float32, torch.bfloat16):
        with pytest.raises(ModelError, match=r"weights of .*tiny are not finite \(first: model\.l"):
            load_model(folder, dtype=dtype)


def test_weights_that_overflow_the_type_on_disk_are_not_saved(tmp_path: Path):
    model = tiny_model()
    model.model.norm.weight.data[0] = 3.4e38  # bfloat16 rounds it up, to infinity

    with pytest.raises(ModelError, match="not finite"):
        save_model(model, tiny_tokenizer(), tmp_path / "half", dtype=torch.bfloat16)
    save_model(model, tiny_tokenizer(), tmp_path / "full")
    assert load_model(tmp_path / "full").model.norm.weight[0].item() == pytest.approx(3.4e38)


def test_failed_save_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tokenizer = tiny_tokenizer()

    def full_disk(_folder: Path) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(tokenizer, "save_pretrained", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_model(tiny_model(), tokenizer, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_contradictory_generation_settings_do_not_cost_a_trained_model(tmp_path: Path):
    """A temperature without sampling: read by the library, refused when writing."""
    model = tiny_model()
    model.generation_config.do_sample = False
    model.generation_config.temperature = 0.6
    save_model(model, tiny_tokenizer(), tmp_path / "m")
    assert model.generation_config.temperature == 0.6
    written = json.loads((tmp_path / "m" / "generation_config.json").read_text())
    assert written["temperature"] == 0.6
    assert written["eos_token_id"] == 2


def test_missing_weight_is_refused_and_not_made_up(folder: Path):
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks 1 of .*layers\.1\.mlp\.up_proj"):
        load_model(folder)


def test_weight_of_another_shape_is_refused(folder: Path):
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = torch.ones(3)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError):
        load_model(folder)


def test_truncated_weights_are_refused(folder: Path):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ModelError, match="could not be loaded"):
        load_model(folder)


def test_architecture_nobody_knows_is_refused(folder: Path):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "abacus"}))
    for load in (load_config, load_model, load_tokenizer):
        with pytest.raises(ModelError, match=r"could not be loaded .*abacus"):
            load(folder)


def test_model_that_is_no_language_model_is_refused(folder: Path):
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(ModelError, match="the model in"):
        load_model(folder)


def test_tokenizer_with_more_ids_than_embeddings_is_refused(tmp_path: Path):
    save_model(tiny_model(vocab_size=200), tiny_tokenizer(), tmp_path / "m")
    with pytest.raises(ModelError, match="token id 258, but the model embeds only 200"):
        load_tokenizer(tmp_path / "m")


def test_missing_tokenizer_is_refused(folder: Path):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="tokenizer"):
        load_tokenizer(folder)


def test_template_of_the_recipe_travels_with_the_checkpoint(folder: Path, tmp_path: Path):
    tokenizer = load_tokenizer(folder, chat_template="{{ 'mine' }}")
    save_model(load_model(folder), tokenizer, tmp_path / "m")
    assert load_tokenizer(tmp_path / "m").chat_template == "{{ 'mine' }}"


def test_end_tokens_are_those_of_the_generation_config(folder: Path):
    assert generation_eos_ids(folder) == (2,)
    file = folder / "generation_config.json"
    file.write_text(json.dumps({"eos_token_id": [2, 0]}))
    assert generation_eos_ids(folder) == (2, 0)
    file.unlink()
    assert generation_eos_ids(folder) == (2,)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_context_length_is_found_whatever_its_name(architecture: str):
    assert context_length(tiny_model(architecture=architecture).config) == 512


def test_context_length_may_be_unlimited():
    from transformers import AutoConfig

    assert context_length(AutoConfig.for_model("mamba")) is None
