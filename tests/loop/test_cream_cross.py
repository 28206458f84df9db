"""Pairs are checked by a model that was fine-tuned on seed examples which M1 never saw."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cream.errors import RecipeError
from cream.programs.recompute import recompute_pairs
from cream.recipe import Recipe
from cream.report.summary import status_of
from run_contents import stage_record, table

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]
CROSS = "method={name: cream_cross, witness: other, pairing: {truncated: keep}}"


@pytest.fixture(scope="module")
def crossed(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Path:
    """One iteration with a witness, pairs filtered by it."""
    recipe = tiny_recipe(
        tmp_path_factory.mktemp("crossed") / "run",
        "iterations=1",
        "data.test=null",
        "data.prompts.per_iteration=24",
        "sampling.prompts_per_shard=12",
        "witnesses.other.seed_share=0.5",
        CROSS,
    )
    return run_whole(recipe)


def agrees(rows: dict, pair: dict) -> bool:
    """Whether the witness has a higher likelihood per token for the chosen completion."""
    chosen, rejected = (rows[pair[key]] for key in ("chosen_id", "rejected_id"))
    per_token = [row["logps_other"] / row["num_tokens"] for row in (chosen, rejected)]
    return per_token[0] > per_token[1]


def test_the_witness_is_a_column_of_the_score_matrix(crossed: Path):
    rows = table(crossed, "iteration-1/matrix")

    assert all(row["logps_other"] < 0 for row in rows)
    assert any(row["logps_other"] != row["logps_M1"] for row in rows)


def test_only_pairs_that_the_witness_confirms_are_trained_on_and_fully(crossed: Path):
    rows = {row["completion_id"]: row for row in table(crossed, "iteration-1/matrix")}
    pairs = table(crossed, "iteration-1/pair")
    kept = [pair for pair in pairs if "chosen_id" in pair]

    assert kept
    assert all(agrees(rows, pair) for pair in kept)
    assert {pair["consistency"] for pair in kept} == {1.0}


def test_the_pairs_are_srlms_without_those_that_the_witness_orders_the_other_way(
    crossed: Path, tmp_path: Path
):
    srlm = recompute_pairs(
        crossed, 1, ["method={name: srlm, pairing: {truncated: keep}}"], tmp_path / "srlm"
    )
    rows = {row["completion_id"]: row for row in table(crossed, "iteration-1/matrix")}
    every = [p for p in table(tmp_path, "srlm") if "chosen_id" in p]
    kept = [p["chosen_id"] for p in table(crossed, "iteration-1/pair") if "chosen_id" in p]
    parts = stage_record(crossed, "iteration-1/pair")["summary"]["tally"]["parts"]

    assert len(kept) < len(every)
    assert kept == [p["chosen_id"] for p in every if agrees(rows, p)]
    assert parts["witness_disagrees"] + parts["witness_silent"] == len(every) - len(kept)
    assert srlm.tally.parts["paired"] == len(every)


def test_two_gaussian_raters_keep_all_pairs_and_give_each_its_own_c(crossed: Path, tmp_path: Path):
    recompute_pairs(crossed, 1, ["method.use=two_gaussian"], tmp_path / "raters")
    pairs = [p for p in table(tmp_path, "raters") if "chosen_id" in p]
    kept = [p for p in table(crossed, "iteration-1/pair") if "chosen_id" in p]

    assert len(pairs) > len(kept)
    assert all(0.5 <= p["consistency"] <= 1 for p in pairs)
    assert len({p["consistency"] for p in pairs}) > 1


def test_a_witness_that_the_recipe_does_not_have_is_refused_when_the_run_is_opened(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    recipe = tiny_recipe(tmp_path / "run", "witnesses.another.seed_share=0.5", CROSS)

    with pytest.raises(RecipeError, match=r"asks other at iteration 1; .* \(another\)"):
        run_whole(recipe)
    assert not (tmp_path / "run" / "models").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("below_half: drop", "under use: filter every C is 1"),
        ("objective: {set_level_action: skip}", "acts on one C for the whole set"),
    ],
)
def test_an_option_that_would_not_act_is_refused(
    option: str, message: str, tmp_path: Path, tiny_recipe: MakeRecipe
):
    with pytest.raises(RecipeError, match=message):
        tiny_recipe(tmp_path, f"method={{name: cream_cross, witness: other, {option}}}")


@pytest.fixture(scope="module")
def calibrated(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Path:
    """One iteration whose C is counted on a quarter of the seed examples."""
    recipe = tiny_recipe(
        tmp_path_factory.mktemp("calibrated") / "run",
        "iterations=1",
        "data.test=null",
        "witnesses.other.seed_share=0.25",
        "calibration.seed_share=0.25",
        CROSS.replace("witness: other", "witness: other, use: smooth, below_half: allow"),
    )
    return run_whole(recipe)


def test_held_out_seed_prompts_train_no_model_and_are_answered_by_m1(calibrated: Path):
    owners = {row["prompt_id"]: row["part"] for row in table(calibrated, "data/seed-parts")}
    rows = table(calibrated, "calibration/matrix")
    held_out = {key for key, part in owners.items() if part == "calibration"}

    assert stage_record(calibrated, "data/seed-parts")["summary"]["tally"]["parts"] == {
        "policy": 8,
        "other": 4,
        "calibration": 4,
    }
    assert {row["prompt_id"] for row in rows} == held_out
    assert len(rows) == 4 * (1 + 4)
    assert sum(row["origin"] == "data" for row in rows) == 4
    assert all(row[f"logps_{name}"] < 0 for row in rows for name in ("M0", "M1", "other"))


def test_c_is_what_was_counted_on_the_seed_items(calibrated: Path):
    """Counted again by hand: gold against each distinct other answer of its prompt."""
    groups: dict[str, dict[str, dict]] = {}
    for row in table(calibrated, "calibration/matrix"):
        groups.setdefault(row["prompt_id"], {}).setdefault(str(row["token_ids"]), row)
    counts = {"agree_right": 0, "agree_total": 0, "disagree_right": 0, "disagree_total": 0}
    for group in groups.values():
        (gold,) = (row for row in group.values() if row["origin"] == "data")
        for row in group.values():
            if row["text"].split() == gold["text"].split():
                continue
            rewards = [r["logps_M1"] - r["logps_M0"] for r in (gold, row)]
            words = [r["logps_other"] / r["num_tokens"] for r in (gold, row)]
            right, said = rewards[0] > rewards[1], words[0] > words[1]
            kind = "agree" if right == said else "disagree"
            counts[f"{kind}_total"] += 1
            counts[f"{kind}_right"] += right
    found = stage_record(calibrated, "iteration-1/pair")["summary"]["calibration"]
    source = found.pop("source")
    pairs = [p for p in table(calibrated, "iteration-1/pair") if "chosen_id" in p]
    rows = {row["completion_id"]: row for row in table(calibrated, "iteration-1/matrix")}

    assert found == counts
    assert source == "4 held-out seed prompts answered by M1"
    assert pairs
    for pair in pairs:
        kind = "agree" if agrees(rows, pair) else "disagree"
        c = (counts[f"{kind}_right"] + 1) / (counts[f"{kind}_total"] + 2)
        assert pair["consistency"] == pytest.approx(c, abs=1e-12)


def test_calibration_without_held_out_examples_is_refused_when_the_run_is_opened(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    recipe = tiny_recipe(
        tmp_path / "run",
        "witnesses.other.seed_share=0.5",
        CROSS.replace("witness: other", "witness: other, use: smooth"),
    )

    with pytest.raises(RecipeError, match="add a section `calibration"):
        run_whole(recipe)


def test_status_knows_the_stages_of_the_calibration(calibrated: Path):
    states = {entry.stage: entry.state for entry in status_of(calibrated).stages}
    expected = ["data/seed-parts", "witnesses/other/train", "calibration/sample"]
    expected += [f"calibration/score/{name}" for name in ("M1", "M0", "other")]
    names = [name for name in states if name in {*expected, "calibration/matrix"}]

    assert names == [*expected, "calibration/matrix"]
    assert {states[name] for name in names} == {"finished"}
