"""Unanimous groups are trained on by likelihood alone, counted and reported apart."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cream.recipe import Recipe
from cream.recipe.load import validate_recipe
from cream.runs.files import read_table
from run_contents import weights

RecipeMaker = Callable[..., Recipe]
DPO_NLL = "method.objective={name: dpo, nll: {kind: constant, weight: 1.0}}"
CERTAIN = ("sampling.temperature=0.05", "sft.epochs=16")
"""A policy that says the same again and again, so that groups are unanimous."""


def record(root: Path, stage: str) -> dict[str, Any]:
    return json.loads((root / stage / "stage.json").read_text("utf-8"))


def groups(root: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted((root / "iteration-1/matrix").glob("part-*")):
        for row in read_table(path).to_pylist():
            found.setdefault(row["prompt_id"], []).append(row)
    return found


@pytest.fixture(scope="module")
def srlm(
    tiny_recipe: RecipeMaker, run_whole: Callable[..., Path], tmp_path_factory: Any
) -> dict[str, Path]:
    """The same recipe with unanimous groups dropped and trained on."""
    made = {}
    for choice in ("drop", "nll"):
        folder = tmp_path_factory.mktemp("unanimous") / choice
        method = f"method={{name: srlm, pairing: {{truncated: keep, unanimous: {choice}}}}}"
        recipe = tiny_recipe(folder, "iterations=1", "sampling.temperature=0.4", method, DPO_NLL)
        made[choice] = run_whole(recipe)
    return made


def test_groups_of_copies_become_examples_with_what_they_say(srlm: dict[str, Path]):
    root = srlm["nll"]
    agreed = read_table(root / "iteration-1/pair/unanimous.parquet").to_pylist()
    alike = {
        key: rows
        for key, rows in groups(root).items()
        if len({tuple(row["token_ids"]) for row in rows}) == 1
    }

    assert alike
    assert {row["prompt_id"] for row in agreed} == set(alike)
    for row in agreed:
        assert row["completion_id"] in {c["completion_id"] for c in alike[row["prompt_id"]]}
    summary = record(root, "iteration-1/pair")["summary"]
    right = sum(rows[0]["verifier"] for rows in alike.values())
    assert summary["unanimous"]["n"] == len(alike) == summary["tally"]["parts"]["unanimous"]
    assert summary["unanimous"]["share"] == pytest.approx(right / len(alike))
    pairs = summary["tally"]["parts"]["paired"]
    assert summary["chosen_right"]["n"] == pairs + len(alike)
    trained = record(root, "iteration-1/train")["summary"]["tally"]["parts"]["trained"]
    assert trained == pairs + len(alike)


def test_dropped_they_leave_pairs_and_fingerprint_as_they_were(srlm: dict[str, Path]):
    old, new = (record(srlm[choice], "iteration-1/pair") for choice in ("drop", "nll"))
    pairs = [read_table(srlm[c] / "iteration-1/pair/pairs.parquet") for c in ("drop", "nll")]

    assert "unanimous" not in old["inputs"]["parts"]["pairing"]
    assert new["inputs"]["parts"]["pairing"]["unanimous"] == "nll"
    assert pairs[0].equals(pairs[1])
    assert old["summary"]["unanimous"] is None
    assert old["summary"]["tally"]["parts"]["all_duplicates"] > 0
    one, other = (weights(srlm[choice], "M2") for choice in ("drop", "nll"))
    assert any(not one[name].equal(other[name]) for name in one)


def test_a_policy_of_one_mind_is_trained_without_a_single_pair(
    tiny_recipe: RecipeMaker, run_whole: Callable[..., Path], tmp_path: Path
):
    """The method reads no pair: at this temperature every group gives one answer."""
    method = "method={name: unanimous, truncated: keep}"
    root = run_whole(tiny_recipe(tmp_path / "run", "iterations=1", *CERTAIN, method))
    summary = record(root, "iteration-1/pair")["summary"]

    assert summary["tally"]["parts"]["paired"] == 0
    assert summary["mean_gap"] is None
    agreed = summary["tally"]["parts"]["unanimous"]
    assert agreed > 0
    trained = record(root, "iteration-1/train")["summary"]
    assert trained["tally"]["parts"]["trained"] == agreed
    assert set(trained["last_step"]) == {"loss", "grad_norm", "learning_rate", "logps/chosen"}


def test_an_objective_without_a_likelihood_term_cannot_train_on_them(recipe_values: dict[str, Any]):
    method = {"name": "srlm", "pairing": {"unanimous": "nll"}}
    recipe = validate_recipe({**recipe_values, "method": method}, source="test")

    with pytest.raises(ValueError, match=r"likelihood term; give it one \(objective\.nll\)"):
        recipe.method.parts(1)
