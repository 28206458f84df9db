"""Each smoke recipe runs on a tiny model and differs from SRLM where its page says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cream.recipe.load import load_recipe
from cream.runs.files import read_table

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke"

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Outcome:
    """What one iteration of a recipe made."""

    pairs: list[tuple[str, str]]
    consistency: np.ndarray
    weight: np.ndarray
    losses: list[float]
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def outcome(
    tiny_inputs: Path,
    tmp_path_factory: pytest.TempPathFactory,
    run_whole: Callable[..., Path],
) -> Callable[[str], Outcome]:
    """Run a smoke recipe once per module."""

    @cache
    def run(name: str) -> Outcome:
        folder = tmp_path_factory.mktemp("smoke") / name
        overrides = [
            f"model.name={tiny_inputs / 'model'}",
            f"run_dir={folder}",
            # `run_whole` stands elsewhere than the command, which starts from the recipe's folder.
            f"data.seed.sources.0.path={SMOKE / 'data' / 'seed.jsonl'}",
            f"data.prompts.sources.0.path={SMOKE / 'data' / 'prompts.jsonl'}",
        ]
        run_whole(load_recipe(SMOKE / f"{name}.yaml", overrides))
        table = read_table(folder / "iteration-1/pair/pairs.parquet")
        stage = json.loads((folder / "iteration-1/pair/stage.json").read_text(encoding="utf-8"))
        lines = (folder / "iteration-1/train/metrics.jsonl").read_text(encoding="utf-8")
        ids = (table["chosen_id"].to_pylist(), table["rejected_id"].to_pylist())
        return Outcome(
            list(zip(*ids, strict=True)),
            table["consistency"].to_numpy(),
            table["weight"].to_numpy(),
            [json.loads(line)["loss"] for line in lines.splitlines()],
            stage["summary"],
        )

    return run


def test_every_run_starts_from_the_same_completions_so_that_pairs_can_be_compared(outcome):
    srlm, cream = outcome("srlm"), outcome("cream")

    assert srlm.pairs == cream.pairs
    assert srlm.consistency.tolist() == [1.0] * len(srlm.pairs)


@pytest.mark.parametrize("name", ["cream", "cream_sample", "cream_pair", "cream_reference", "spa"])
def test_the_same_pairs_are_trusted_otherwise(outcome, name: str):
    srlm, other = outcome("srlm"), outcome(name)

    assert other.pairs == srlm.pairs
    assert (other.consistency < 1).any()
    assert other.losses != srlm.losses


@pytest.mark.parametrize("name", ["cream_sample", "spa"])
def test_not_all_pairs_are_trusted_alike(outcome, name: str):
    assert len(set(outcome(name).consistency.tolist())) > 1


def test_the_reference_rules_compare_something_else_at_the_first_iteration(outcome):
    assert outcome("cream_reference").summary["compared"] == "implicit(M1), mean_likelihood(M0)"
    assert outcome("cream").summary["compared"] == "mean_likelihood(M1), mean_likelihood(M0)"
    assert outcome("cream_reference").consistency.tolist() != outcome("cream").consistency.tolist()


@pytest.mark.parametrize("name", ["srlm_kl", "fixed_smoothing"])
def test_the_same_pairs_are_trained_on_with_another_loss(outcome, name: str):
    srlm, other = outcome("srlm"), outcome(name)

    assert other.pairs == srlm.pairs
    assert other.consistency.tolist() == srlm.consistency.tolist()
    assert other.losses[-1] != srlm.losses[-1]


def test_dice_makes_chosen_and_rejected_nearer_in_length(outcome):
    srlm, dice = outcome("srlm").summary, outcome("dice").summary

    def gap(summary):
        return abs(summary["chosen_tokens"] - summary["rejected_tokens"])

    assert dice["length_alpha"] is not None
    assert gap(dice) <= gap(srlm)


@pytest.mark.parametrize("name", ["scpo", "oracle"])
def test_other_rewards_make_other_pairs(outcome, name: str):
    assert set(outcome(name).pairs) != set(outcome("srlm").pairs)


def test_temporal_takes_what_other_models_do_better_or_worse_and_keeps_srlms_pairs_elsewhere(
    outcome,
):
    """At t = 1 the past model is M1 as well: M1's first completions are those of SRLM."""
    srlm, temporal = dict(outcome("srlm").pairs), outcome("temporal")
    made_by = [[key.split("-")[-2] for key in pair] for pair in temporal.pairs]

    assert temporal.pairs != outcome("srlm").pairs
    assert any(rejected == "past" for _, rejected in made_by)
    assert all(chosen != "past" and rejected != "future" for chosen, rejected in made_by)
    own = [pair for pair in temporal.pairs if "past" not in pair[1] and "future" not in pair[0]]
    assert all(srlm[chosen] == rejected for chosen, rejected in own)
    assert temporal.losses != outcome("srlm").losses


def test_scpo_weighs_pairs_by_the_vote_margin(outcome):
    scpo = outcome("scpo")

    assert ((scpo.weight > 0) & (scpo.weight < 1)).any()
    assert scpo.summary["mean_weight"] == pytest.approx(scpo.weight.mean())
