"""What would fail after hours of a run is refused when it is opened, with nothing written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from cream.errors import DataError, ModelError
from cream.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]
CONTEXT = 512
"""Tokens of the tiny model; a character is a token."""


def changed_model(inputs: Path, folder: Path, **settings: object) -> Path:
    """The tiny model with other settings in its configuration."""
    shutil.copytree(inputs / "model", folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps(config | settings), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("training.lora={target_modules: [q_proj, lm_head]}",),
            "^training: lora.target_modules: 'lm_head' is the head, tied to the embedding",
        ),
        (
            ("sft.lora={target_modules: [embed_tokens]}",),
            "^sft: lora.target_modules: 'embed_tokens' is the head, tied to the embedding",
        ),
        (
            ("training.lora={target_modules: [c_attn]}",),
            "^training: lora.target_modules: .*does not fit this model .*Use all-linear",
        ),
    ],
)
def test_adapters_that_the_model_cannot_have(
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    overrides: tuple[str, ...],
    message: str,
):
    with pytest.raises(ModelError, match=message):
        run_whole(tiny_recipe(tmp_path / "run", *overrides))
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_rows_that_the_model_cannot_share(
    tmp_path: Path, tiny_inputs: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    rope = {"rope_type": "default", "rope_theta": 10000.0, "unheard_of": 8}
    folder = changed_model(tiny_inputs, tmp_path / "model", rope_parameters=rope)
    recipe = tiny_recipe(
        tmp_path / "run", f"model.name={folder}", "training.compute.pair_layout=shared"
    )
    with pytest.raises(ModelError, match=r"pair_layout: .* its rotary positions set unheard_of"):
        run_whole(recipe)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_a_model_that_is_no_causal_language_model(
    tmp_path: Path, tiny_inputs: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    folder = changed_model(tiny_inputs, tmp_path / "model", model_type="t5")
    with pytest.raises(ModelError, match=r"could not be loaded .*T5Config"):
        run_whole(tiny_recipe(tmp_path / "run", f"model.name={folder}"))
    assert not (tmp_path / "run" / "recipe.yaml").exists()


@pytest.mark.parametrize(
    ("method", "stage", "shares"),
    [
        ("method={name: spin, truncated: keep}", "iteration-1/sample", "8 of 16"),
        ("calibration={seed_share: 0.75}", "calibration/sample", "[4-8] of 12"),
    ],
)
def test_seed_completions_that_are_scored_and_exceed_the_context(
    tmp_path: Path,
    tiny_inputs: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    method: str,
    stage: str,
    shares: str,
):
    """Where no method scores them they are dropped by fine-tuning, which counts them."""
    rows = [
        json.loads(line)
        for line in (tiny_inputs / "seed.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    for row in rows[:8]:
        row["completion"] = "1" * CONTEXT
    seed = tmp_path / "seed.jsonl"
    seed.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    source = f"data.seed.sources=[{{source: file, path: {seed}}}]"
    message = f"^{stage} scores the completions of the seed data, and {shares} exceed the model's"
    with pytest.raises(DataError, match=message):
        run_whole(tiny_recipe(tmp_path / "run", source, "data.test=null", method))
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def test_what_is_only_fine_tuned_on_is_dropped_and_counted(
    tmp_path: Path, tiny_inputs: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    rows = [
        json.loads(line)
        for line in (tiny_inputs / "seed.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    rows[0]["completion"] = "1" * CONTEXT
    seed = tmp_path / "seed.jsonl"
    seed.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = tiny_recipe(
        tmp_path / "run",
        f"data.seed.sources=[{{source: file, path: {seed}}}]",
        "iterations=1",
        "sft.epochs=1",
    )
    root = run_whole(recipe)
    record = json.loads((root / "sft" / "train" / "stage.json").read_text(encoding="utf-8"))
    assert record["summary"]["tally"]["parts"] == {
        "trained": 15,
        "skipped": 0,
        "too_long": 1,
        "empty": 0,
    }
