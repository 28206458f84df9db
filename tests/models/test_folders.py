"""Which folders are accepted as models, and what is said about the others."""

import json
import shutil
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from pydantic import ValidationError

from cream.errors import ModelError
from cream.models.folders import check_model_folder, resolve_model
from cream.recipe.model import EMBEDDED_NAME, ModelConfig
from cream.testing import tiny_model_folder


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "tiny"))


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty hub cache and no network."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_local_folder_is_resolved(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(folder.parent)
    for name in (str(folder), "./tiny", "tiny"):
        assert resolve_model(ModelConfig(name=name), tmp_path) == folder.resolve()


def test_cached_hub_model_is_resolved_without_network(folder: Path, hub_cache: Path):
    repository = hub_cache / "models--org--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    shutil.copytree(folder, repository / "snapshots" / commit)
    found = resolve_model(ModelConfig(name="org/tiny"), hub_cache)
    assert found == repository / "snapshots" / commit
    pinned = ModelConfig(name="org/tiny", revision=commit)
    assert resolve_model(pinned, hub_cache) == found


def test_hub_model_that_cannot_be_fetched_is_one_clear_error(hub_cache: Path):
    with pytest.raises(ModelError, match=r"'org/none' at revision 'v1' .* could not be fetched"):
        resolve_model(ModelConfig(name="org/none", revision="v1"), hub_cache)


def test_name_that_is_neither_folder_nor_hub_id_is_an_error(hub_cache: Path):
    with pytest.raises(ModelError, match="neither an existing folder nor a hub id"):
        resolve_model(ModelConfig(name="some/deep/path"), hub_cache)


def test_missing_folder_is_an_error(tmp_path: Path):
    with pytest.raises(ModelError, match="does not exist"):
        resolve_model(ModelConfig(name=str(tmp_path / "none")), tmp_path)


def test_revision_of_a_local_folder_is_an_error(folder: Path, tmp_path: Path):
    with pytest.raises(ModelError, match="no revisions"):
        resolve_model(ModelConfig(name=str(folder), revision="main"), tmp_path)


def test_recipe_refuses_what_cannot_mean_anything():
    for wrong in ({"name": " "}, {"device": "gpu"}, {"compute_dtype": "float16"}, {"nmae": "x"}):
        with pytest.raises(ValidationError):
            ModelConfig.model_validate(wrong)
    with pytest.raises(ValidationError, match="one pinned revision"):
        ModelConfig(name=EMBEDDED_NAME, revision="main")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_pickled_weights_are_refused_without_being_read(folder: Path, name: str):
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"not even a pickle")
    with pytest.raises(ModelError, match=f"pickled weights \\({name}\\)"):
        check_model_folder(folder)


def test_pickles_beside_safetensors_do_no_harm(folder: Path):
    torch.save({"learning_rate": 1.0}, folder / "training_args.bin")
    check_model_folder(folder)


def test_folder_without_weights_is_an_error(folder: Path):
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"lacks model\.safetensors"):
        check_model_folder(folder)


def test_missing_shard_is_named(folder: Path):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": shards}))
    with pytest.raises(ModelError, match="lacks model-00002-of-00002"):
        check_model_folder(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "has no config.json"), ("{", "not valid JSON"), ("[]", "not a JSON object")],
)
def test_unusable_config_is_an_error(folder: Path, content: str | None, message: str):
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(ModelError, match=message):
        check_model_folder(folder)
