"""Each bad input of a user: one clear message, exit code 2, before a model is loaded.

M0's weights file has a whole header and garbage after it, so that loading it would go unnoticed
here, but the run would leave stages behind: none may.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from cream.testing import tiny_model_folder

Cream = Callable[..., Any]


@pytest.fixture
def refused(cream: Cream, recipe_file: Path) -> Callable[..., str]:
    """Run the recipe with overrides; return its one message."""

    def run(*overrides: str) -> str:
        arguments = [part for override in overrides for part in ("--set", override)]
        result = cream("run", recipe_file, *arguments)

        assert result.code == 2, result.err
        assert result.out == ""
        assert result.err.startswith("error: ")
        assert "Traceback" not in result.err
        assert "✓" not in result.err
        assert result.err.count("error:") == 1
        root = recipe_file.parent / "run"
        assert not list(root.rglob("stage.json")) + list(root.rglob("begun.json"))
        return result.err

    return run


def edit(path: Path, change: Callable[[list[str]], list[str]]) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    path.write_text("\n".join(change(lines)) + "\n", encoding="utf-8")


def test_an_unknown_key_names_the_nearest_known_one(refused: Callable[..., str]):
    message = refused("sampling.temperatur=0.5")

    assert "sampling.temperatur: unknown key; did you mean 'temperature'?" in message


@pytest.mark.parametrize(
    ("override", "where"),
    [
        ("sampling.temperature=hot", "sampling.temperature"),
        ("sampling.top_p=1.5", "sampling.top_p"),
        ("iterations=0", "iterations"),
        ("training.optimiser.learning_rate=-1", "training.optimiser.learning_rate"),
        ("method=creme", "method"),
        ("keep_checkpoints=some", "keep_checkpoints"),
    ],
)
def test_a_wrong_type_or_range_is_named(override: str, where: str, refused: Callable[..., str]):
    message = refused(override)

    assert where in message
    assert override.partition("=")[2] in message


def test_several_mistakes_are_told_at_once(refused: Callable[..., str]):
    message = refused("iterations=0", "sampling.top_p=2")

    assert "iterations" in message
    assert "sampling.top_p" in message


def test_a_missing_recipe_is_named(cream: Cream, tmp_path: Path):
    result = cream("run", tmp_path / "nothing.yaml")

    assert result.code == 2
    assert "nothing.yaml" in result.err
    assert "cream init" in result.err


def test_a_missing_data_file_is_named(refused: Callable[..., str], recipe_file: Path):
    (recipe_file.parent / "prompts.jsonl").unlink()

    assert "prompts.jsonl" in refused()


def test_a_malformed_line_is_named_by_file_and_number(
    refused: Callable[..., str], recipe_file: Path
):
    edit(recipe_file.parent / "prompts.jsonl", lambda lines: [*lines[:2], "{oops", *lines[2:]])

    assert "prompts.jsonl line 3 is not valid JSON" in refused()


def test_an_empty_prompt_is_named_by_file_and_number(
    refused: Callable[..., str], recipe_file: Path
):
    edit(recipe_file.parent / "prompts.jsonl", lambda lines: ['{"prompt": " "}', *lines])

    message = refused()
    assert "prompts.jsonl line 1" in message
    assert "empty" in message


def test_duplicate_prompts_are_named_by_file_and_number(
    refused: Callable[..., str], recipe_file: Path
):
    edit(recipe_file.parent / "prompts.jsonl", lambda lines: [*lines, lines[0]])

    message = refused()
    assert "duplicate prompt" in message
    assert "line 33" in message
    assert "line 1" in message


def test_an_empty_file_is_refused(refused: Callable[..., str], recipe_file: Path):
    (recipe_file.parent / "test.jsonl").write_text("")

    assert "test.jsonl" in refused()


def test_too_few_prompts_say_for_how_many_iterations_they_are_enough(
    refused: Callable[..., str],
):
    assert "enough for 4" in refused("iterations=5")


def test_a_prompt_longer_than_the_context_is_named(refused: Callable[..., str], recipe_file: Path):
    long = json.dumps({"prompt": "count " * 100, "answer": "1"})
    edit(recipe_file.parent / "test.jsonl", lambda lines: [*lines, long])

    message = refused()
    assert "count count" in message
    assert "context of 512" in message


def test_a_tokenizer_without_chat_template_is_refused(refused: Callable[..., str], tmp_path: Path):
    tiny_model_folder(tmp_path / "plain", chat_template=None)

    assert "no chat template" in refused(f"model.name={tmp_path / 'plain'}")


def test_a_test_prompt_that_is_trained_on_is_refused(
    refused: Callable[..., str], recipe_file: Path
):
    leak = (recipe_file.parent / "prompts.jsonl").read_text(encoding="utf-8").splitlines()[4]
    edit(recipe_file.parent / "test.jsonl", lambda lines: [*lines, leak])

    message = refused()
    assert "1 of 13 test prompts are also training prompts" in message
    assert "prompts.jsonl line 5" in message


def test_a_run_directory_of_another_recipe_is_refused(
    cream: Cream, recipe_file: Path, finished_run: Path
):
    before = (finished_run / "recipe.yaml").read_bytes()
    result = cream("run", recipe_file, "--set", f"run_dir={finished_run}", "--set", "seed=5")

    assert result.code == 2
    assert "made by another recipe (seed: 1 there, 5 now)" in result.err
    assert (finished_run / "recipe.yaml").read_bytes() == before


def test_a_run_directory_with_other_things_in_it_is_refused(
    refused: Callable[..., str], recipe_file: Path
):
    (recipe_file.parent / "run").mkdir()
    (recipe_file.parent / "run" / "thesis.tex").write_text("years of work")

    assert "is not empty and holds no run (found thesis.tex)" in refused()


def test_pickled_weights_are_refused(
    refused: Callable[..., str], tmp_path: Path, tiny_inputs: Path
):
    folder = tmp_path / "pickled"
    shutil.copytree(tiny_inputs / "model", folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")

    message = refused(f"model.name={folder}")
    assert "pickled weights (pytorch_model.bin)" in message


def test_a_missing_model_folder_is_named(refused: Callable[..., str], tmp_path: Path):
    assert "does not exist" in refused(f"model.name={tmp_path / 'gone'}")


def test_too_little_disk_names_keep_checkpoints(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10))

    assert "keep_checkpoints" in refused()


def test_a_refused_recipe_can_be_mended_in_place(
    cream: Cream, recipe_file: Path, refused: Callable[..., str]
):
    """The run directory belongs to a recipe only once the recipe was found right."""
    refused("data.prompts.per_iteration=1000")
    mended = cream("sample", recipe_file, "--set", "data.prompts.per_iteration=4")

    assert mended.code == 2
    assert "sft/train is not finished" in mended.err


def test_weights_are_not_read_before_everything_is_checked(
    refused: Callable[..., str], recipe_file: Path, tmp_path: Path, tiny_inputs: Path
):
    """These weights cannot be loaded (cut short), and yet it is the data that is complained of."""
    folder = tmp_path / "short"
    shutil.copytree(tiny_inputs / "model", folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    edit(recipe_file.parent / "test.jsonl", lambda lines: [*lines, "{oops"])

    assert "test.jsonl line 13" in refused(f"model.name={folder}")


def test_damaged_weights_are_refused_before_anything_runs(
    refused: Callable[..., str], tmp_path: Path, tiny_inputs: Path
):
    folder = tmp_path / "short"
    shutil.copytree(tiny_inputs / "model", folder)
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])

    assert "model.safetensors" in refused(f"model.name={folder}")


def test_a_long_message_is_one_line_even_in_a_file(refused: Callable[..., str], tmp_path: Path):
    """Consoles without a width are taken for 80 columns wide; a wrapped path cannot be copied."""
    folder = tmp_path / ("long" * 40)
    message = refused(f"model.name={folder}")

    assert str(folder) in message
    assert message.count("\n") == 1


def test_yaml_that_is_no_recipe_is_refused(cream: Cream, tmp_path: Path):
    path = tmp_path / "list.yaml"
    path.write_text(yaml.safe_dump([1, 2]))
    result = cream("run", path)

    assert result.code == 2
    assert "must be a mapping" in result.err
