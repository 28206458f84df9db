"""SCIR in a run: unlabelled pairs, verdicts as rows, resumed, refused; and the verdict witness."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cream import run
from cream.algorithms.scir import VERDICTS
from cream.engines.scorer import TorchScorer
from cream.errors import RecipeError, RunError
from cream.models.loading import load_model
from cream.recipe import Recipe
from cream.report.export import export_pairs
from cream.runs.files import read_table
from cream.runs.tables import examples_from_table
from cream.types import Example, ScoringRequest
from kills import KillAt, Killed
from run_contents import same_weights, weights

RecipeMaker = Callable[..., Recipe]
METHOD = "method={name: scir, pairing: {truncated: keep}, objective: {label_mass: 0}}"


@pytest.fixture
def recipe(tiny_recipe: RecipeMaker, tmp_path: Path) -> RecipeMaker:
    def make(name: str, *more: str) -> Recipe:
        return tiny_recipe(tmp_path / name, "iterations=1", "data.test=null", METHOD, *more)

    return make


def examples(root: Path) -> list[Example]:
    tables = map(read_table, sorted((root / "iteration-1/transform").glob("part-*")))
    return [example for table in tables for example in examples_from_table(table)]


def summary(root: Path, stage: str) -> dict[str, Any]:
    return json.loads((root / stage / "stage.json").read_text("utf-8"))["summary"]


def metrics(root: Path) -> list[dict[str, float]]:
    lines = (root / "iteration-1/train/metrics.jsonl").read_text("utf-8")
    return [json.loads(line) for line in lines.splitlines()]


def test_a_run_asks_both_orders_and_reports_both_judges(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    run(recipe("run"), base_dir=tiny_inputs)
    root, found = tmp_path / "run", examples(tmp_path / "run")

    judged = [e for e in found if VERDICTS[0] in e.sequences]
    assert judged
    for example in judged:
        shown, swapped = example.prompt_of("verdict_first"), example.prompt_of("swapped_first")
        assert shown == example.prompt_of("verdict_second") != swapped
        assert len(shown) == len(swapped)
    pairs = summary(root, "iteration-1/pair")
    assert pairs["tally"]["parts"]["paired"] == len(found)
    told = summary(root, "iteration-1/transform")["options"]["scir"]
    assert told["tally"]["total"] == len(found)
    assert told["tally"]["parts"]["added"] == len(judged)
    assert told["figures"]["implicit_spread"] > 1e-3
    assert not (root / "iteration-1/score-examples").exists()
    step = metrics(root)[0]
    assert 0 <= step["scir/agreement"] <= 1
    assert 0 < step["scir/label_mass"] < 1
    assert step["scir/divergence"] >= 0


def test_the_drawn_order_is_no_label(recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path):
    """Over many seeds the first of a pair would have the higher reward in about half of them."""
    higher = []
    for seed in (1, 2, 3):
        run(recipe(f"run{seed}", f"seed={seed}"), base_dir=tiny_inputs)
        table = read_table(tmp_path / f"run{seed}/iteration-1/pair/pairs.parquet")
        higher += [row["chosen_reward"] > row["rejected_reward"] for row in table.to_pylist()]
    assert len(higher) >= 12
    assert 0.15 < sum(higher) / len(higher) < 0.85


def test_the_verdict_in_training_is_that_of_the_scorer(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    """One step of all pairs: its first figures are of M1; the end of turn, which is also the pad
    token, stands inside every question."""
    run(
        recipe("run", "training.optimiser.batch_size=64", "training.epochs=1"),
        base_dir=tiny_inputs,
    )
    root, found = tmp_path / "run", examples(tmp_path / "run")
    model = load_model(root / "models/M1", dtype=torch.float32, device=torch.device("cpu"))
    scorer, sizes, masses = TorchScorer(model), [], []
    for example in found:
        if VERDICTS[0] not in example.sequences:
            continue
        requests = [
            ScoringRequest(r, example.prompt_of(r), (example.sequences[r].token_ids,))
            for r in VERDICTS
        ]
        assert 2 in example.prompt_of("verdict_first")
        logps = {g.prompt_id: float(np.sum(g.token_logps[0])) for g in scorer.score(requests)}
        d12 = logps["verdict_first"] - logps["verdict_second"]
        d21 = logps["swapped_first"] - logps["swapped_second"]
        sizes.append(abs(d12 - d21) / 2)
        masses.append(
            min(
                np.exp(logps[f"{order}_first"]) + np.exp(logps[f"{order}_second"])
                for order in ("verdict", "swapped")
            )
        )
    (step,) = metrics(root)
    assert step["scir/judge_size"] == pytest.approx(np.mean(sizes), abs=1e-4)
    assert step["scir/label_mass"] == pytest.approx(np.mean(masses), abs=1e-6)


@pytest.mark.parametrize("kills", [1, 3, 4])
def test_killed_on_the_way_it_ends_like_an_uninterrupted_run(
    kills: int, recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    more = ("method.objective.frozen_labels=true",)
    run(recipe("whole", *more), base_dir=tiny_inputs)
    shutil.copytree(tmp_path / "whole", tmp_path / "killed")
    for name in ("pair", "transform", "train"):
        shutil.rmtree(tmp_path / "killed/iteration-1" / name)
    shutil.rmtree(tmp_path / "killed/models/M2")
    with pytest.raises(Killed):
        run(recipe("killed", *more), base_dir=tiny_inputs, progress=KillAt("kept", kills))
    run(recipe("killed", *more), base_dir=tiny_inputs)

    assert same_weights(weights(tmp_path / "killed", "M2"), weights(tmp_path / "whole", "M2"))
    assert metrics(tmp_path / "killed") == metrics(tmp_path / "whole")
    assert metrics(tmp_path / "whole")[0]["scir/flip_rate"] == 0.0


def test_micro_batches_of_any_size_give_the_same_model(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    for name, tokens in (("one", 1), ("many", 100_000)):
        budget = f"training.compute.micro_batch_tokens={tokens}"
        run(recipe(name, budget), base_dir=tiny_inputs)
    one, many = (weights(tmp_path / name, "M2") for name in ("one", "many"))
    assert all(torch.allclose(one[key], many[key], atol=2e-5) for key in one)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("method={name: scir, objective: {consistency_weight: 0, preference_weight: 0}}", "both 0"),
        ("training.lora={rank: 4, alpha: 8, dropout: 0.1}", "dropout: 0"),
    ],
)
def test_what_cannot_be_is_refused(
    change: str, said: str, recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    with pytest.raises(RecipeError, match=said):
        run(recipe("run", change), base_dir=tiny_inputs)
    assert not (tmp_path / "run/recipe.yaml").exists()


def test_an_implicit_judge_without_opinion_stops_the_run_before_it_trains(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    """M1 that has hardly moved from M0."""
    still = "sft.optimiser.learning_rate=1.0e-12"
    with pytest.raises(RunError, match="implicit judge of scir has no opinion"):
        run(recipe("run", still), base_dir=tiny_inputs)
    assert not (tmp_path / "run/iteration-1/train").exists()


def test_unlabelled_pairs_are_not_exported(recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path):
    run(recipe("run"), base_dir=tiny_inputs)
    with pytest.raises(RunError, match="drawn order"):
        export_pairs(tmp_path / "run", None)


def test_verdicts_in_the_seed_data_raise_the_mass_of_the_labels(
    recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    run(recipe("none"), base_dir=tiny_inputs)
    run(recipe("some", "data.seed.verdicts=8"), base_dir=tiny_inputs)
    without, with_some = (metrics(tmp_path / name)[0] for name in ("none", "some"))
    assert with_some["scir/label_mass"] > without["scir/label_mass"] + 0.1
    seed = summary(tmp_path / "some", "sft/train")["tally"]["total"]
    assert seed == summary(tmp_path / "none", "sft/train")["tally"]["total"] + 16


def test_verdicts_are_a_witness_of_any_method_and_change_no_pair(
    tiny_recipe: RecipeMaker, tiny_inputs: Path, tmp_path: Path
):
    common = ("iterations=1", "method.name=srlm")
    run(tiny_recipe(tmp_path / "plain", *common), base_dir=tiny_inputs)
    asked = tiny_recipe(
        tmp_path / "asked", *common, "scoring.verdicts={label_mass: 0}", "data.seed.verdicts=0"
    )
    run(asked, base_dir=tiny_inputs)
    pairs = [
        read_table(tmp_path / name / "iteration-1/pair/pairs.parquet").to_pylist()
        for name in ("plain", "asked")
    ]

    assert pairs[0] == pairs[1]
    assert same_weights(weights(tmp_path / "plain", "M2"), weights(tmp_path / "asked", "M2"))
    told = summary(tmp_path / "asked", "iteration-1/score/verdict")
    assert told["details"].keys() == {
        "verdict_label_mass",
        "verdict_position_bias",
        "verdict_turned",
    }
    assert told["tally"]["parts"]["scored"] > 0
    assert "verdict" in summary(tmp_path / "asked", "iteration-1/pair")["witnesses"]
    assert "verdict" not in summary(tmp_path / "plain", "iteration-1/pair")["witnesses"]
