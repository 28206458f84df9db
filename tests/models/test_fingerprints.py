import os
import shutil
from pathlib import Path

import pytest

from cream.errors import ModelError
from cream.models.fingerprints import model_fingerprint, stored_parameters
from cream.models.loading import count_parameters
from cream.models.saving import save_model
from cream.testing import tiny_model, tiny_model_folder, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tiny_model_folder(tmp_path / "tiny")


def test_copies_and_cards_have_the_same_fingerprint(folder: Path, tmp_path: Path):
    before = model_fingerprint(folder)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / "README.md").write_text("a card")
    os.utime(copy / "model.safetensors", (0, 0))
    assert model_fingerprint(copy) == before


@pytest.mark.parametrize(
    "name", ["model.safetensors", "config.json", "tokenizer_config.json", "generation_config.json"]
)
def test_one_changed_byte_changes_the_fingerprint(folder: Path, name: str):
    before = model_fingerprint(folder)
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1 if name.endswith(".safetensors") else ord("\n") ^ ord(" ")
    (folder / name).write_bytes(content)
    assert model_fingerprint(folder) != before


def test_removed_tokenizer_file_changes_the_fingerprint(folder: Path):
    before = model_fingerprint(folder)
    (folder / "chat_template.jinja").unlink()
    assert model_fingerprint(folder) != before


def test_saving_twice_gives_the_same_fingerprint(tmp_path: Path):
    for name in ("a", "b"):
        save_model(tiny_model(), tiny_tokenizer(), tmp_path / name)
    assert model_fingerprint(tmp_path / "a") == model_fingerprint(tmp_path / "b")


def test_stored_parameters_are_those_in_memory(tmp_path: Path):
    """Sharded or not, tied weights once."""
    model = tiny_model()
    save_model(model, tiny_tokenizer(), tmp_path / "whole")
    assert stored_parameters(tmp_path / "whole") == count_parameters(model)
    model.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert stored_parameters(tmp_path / "shards") == count_parameters(model)


def test_damaged_weights_are_named(folder: Path):
    (folder / "model.safetensors").write_bytes(b"\x08\0\0\0\0\0\0\0nonsense")
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        stored_parameters(folder)


def test_weights_in_two_layouts_are_counted_once(tmp_path):
    folder = tiny_model_folder(tmp_path / "model")
    once = stored_parameters(folder)
    for name in ("consolidated.safetensors", "original-00001-of-00001.safetensors"):
        shutil.copy(folder / "model.safetensors", folder / name)

    assert stored_parameters(folder) == once
