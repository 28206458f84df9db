"""Preference degree in a run: versions as rows that are read, heads, probe, resume, refusals."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cream import run
from cream.errors import RecipeError, RunError
from cream.recipe import Recipe
from cream.runs.files import read_table
from cream.runs.tables import examples_from_table
from kills import KillAt, Killed
from run_contents import same_weights, weights

RecipeMaker = Callable[..., Recipe]
LONGER = ("sampling.max_completion_tokens=16",)
"""A truncated answer has no versions."""
DEGREE = "degree: {degrees: 2, replace: filler, filler: x, min_share: 0%s}"


def method(name: str = "preference_degree", more: str = "") -> str:
    section = "{" + DEGREE % more + "}"
    return f"method={{name: {name}, pairing: {{truncated: keep}}, objective: {section}}}"


@pytest.fixture
def recipe(tiny_recipe: RecipeMaker, tmp_path: Path) -> RecipeMaker:
    def make(name: str, *more: str) -> Recipe:
        return tiny_recipe(tmp_path / name, "iterations=1", "data.test=null", *LONGER, *more)

    return make


def summary(root: Path, stage: str) -> dict[str, Any]:
    return json.loads((root / stage / "stage.json").read_text("utf-8"))["summary"]


def metrics(root: Path) -> list[dict[str, float]]:
    lines = (root / "iteration-1/train/metrics.jsonl").read_text("utf-8")
    return [json.loads(line) for line in lines.splitlines()]


def test_a_run_keeps_the_versions_the_heads_and_what_the_length_tells(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    run(recipe("run", method()), base_dir=tiny_inputs)
    root = tmp_path / "run"
    tables = map(read_table, sorted((root / "iteration-1/transform").glob("part-*")))
    found = [example for table in tables for example in examples_from_table(table)]

    told = summary(root, "iteration-1/transform")["options"]["degree"]
    derived = [e for e in found if len(e.sequences) == 4]
    assert told["tally"]["parts"]["added"] == len(derived) > 0
    assert sum(told["tally"]["parts"].values()) == len(found)
    assert told["figures"]["chance"] == 0.5
    heads = load_file(root / "iteration-1/train/objective.safetensors")
    assert set(heads) == {
        f"degree.{side}.{part}" for side in ("chosen", "rejected") for part in ("weight", "bias")
    }
    assert any(values.abs().max() > 0 for values in heads.values())
    assert not any("degree" in key for key in weights(root, "M2"))
    first = next(step for step in metrics(root) if "degree/loss" in step)
    assert first["degree/loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert first["grad_norm/degree"] > 0


def test_a_probe_leaves_the_model_as_plain_dpo_trains_it(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    plain = "method={name: srlm, pairing: {truncated: keep}}"
    run(recipe("plain", plain), base_dir=tiny_inputs)
    run(recipe("probe", method(more=", stop_gradient: true")), base_dir=tiny_inputs)
    run(recipe("joint", method(more=", gamma: 1.0, head_learning_rate: 0.1")), base_dir=tiny_inputs)
    dpo, probe, joint = (weights(tmp_path / n, "M2") for n in ("plain", "probe", "joint"))

    assert all(torch.allclose(dpo[key], probe[key], atol=1e-6) for key in dpo)
    assert not all(torch.allclose(dpo[key], joint[key], atol=1e-5) for key in dpo)


def test_the_first_step_of_zero_heads_is_that_of_dpo_though_gradients_are_clipped(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    """Clipped apart: a head's gradient scales no step of the model."""
    one = ("training.epochs=1", "training.optimiser.batch_size=64")
    clipped = (*one, "training.optimiser.max_grad_norm=1.0e-3")
    run(
        recipe("plain", "method={name: srlm, pairing: {truncated: keep}}", *clipped),
        base_dir=tiny_inputs,
    )
    run(recipe("joint", method(more=", gamma: 10.0"), *clipped), base_dir=tiny_inputs)
    plain, joint = (weights(tmp_path / name, "M2") for name in ("plain", "joint"))
    assert all(torch.allclose(plain[key], joint[key], atol=1e-6) for key in plain)


@pytest.mark.parametrize("kills", [1, 2, 4])
def test_killed_on_the_way_it_ends_like_an_uninterrupted_run(
    kills: int, recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    run(recipe("whole", method()), base_dir=tiny_inputs)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for name in ("transform", "train"):
        shutil.rmtree(tmp_path / "killed/iteration-1" / name)
    shutil.rmtree(tmp_path / "killed/models/M2")
    with pytest.raises(Killed):
        run(recipe("killed", method()), base_dir=tiny_inputs, progress=KillAt("kept", kills))
    run(recipe("killed", method()), base_dir=tiny_inputs)

    assert same_weights(weights(tmp_path / "killed", "M2"), weights(tmp_path / "whole", "M2"))
    heads = [
        load_file(tmp_path / name / "iteration-1/train/objective.safetensors")
        for name in ("whole", "killed")
    ]
    assert all(torch.equal(heads[0][key], heads[1][key]) for key in heads[0])


def test_separate_and_shared_rows_read_the_same_states(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    for layout in ("shared", "separate"):
        how = f"training.compute.pair_layout={layout}"
        run(recipe(layout, method(more=", gamma: 1.0, versions: all"), how), base_dir=tiny_inputs)
    one, other = (metrics(tmp_path / name) for name in ("shared", "separate"))
    for a, b in zip(one, other, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], abs=1e-4)
        assert a.get("degree/loss") == pytest.approx(b.get("degree/loss"), abs=1e-4)


def test_it_stands_beside_cream_and_beside_adapters(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    lora = "training.lora={rank: 4, alpha: 8, dropout: 0.0}"
    trained = ("method.below_half=allow", "method.objective.set_level_action=train")
    run(recipe("run", method("cream"), *trained, lora), base_dir=tiny_inputs)
    root = tmp_path / "run"
    assert "degree.chosen.weight" in load_file(root / "iteration-1/train/objective.safetensors")
    assert not any("degree" in key or "lora" in key for key in weights(root, "M2"))
    assert summary(root, "iteration-1/pair")["consistency_in_loss"] < 1


def test_too_few_answers_with_key_phrases_stop_the_run(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    with pytest.raises(RunError, match="versions could be made of 0 of"):
        run(recipe("run", "method.name=preference_degree"), base_dir=tiny_inputs)
    assert not (tmp_path / "run/iteration-1/train").exists()


def test_the_method_without_its_term_is_refused(recipe: RecipeMaker):
    with pytest.raises(RecipeError, match="this is srlm"):
        recipe("run", "method={name: preference_degree, objective: {name: ipo}}")
