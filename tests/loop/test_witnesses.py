"""A witness is a second M1 on seed examples of its own, and a model of the run like the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cream.errors import RecipeError
from cream.recipe import Recipe
from cream.report.summary import status_of, summarise_run
from run_contents import same_weights, stage_record, table, weights

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]


@pytest.fixture(scope="module")
def witnessed(
    tmp_path_factory: pytest.TempPathFactory, tiny_recipe: MakeRecipe, run_whole: RunWhole
) -> Path:
    """A run with one witness that CREAM does not ask, and only the last checkpoints kept."""
    folder = tmp_path_factory.mktemp("witnessed") / "run"
    return run_whole(
        tiny_recipe(
            folder,
            "iterations=1",
            "data.test=null",
            "witnesses.other.seed_share=0.25",
            "keep_checkpoints=last",
            "sft.epochs=2",
        )
    )


def test_the_seed_examples_are_divided_and_the_division_is_recorded(witnessed: Path):
    """16 seed examples: a quarter, 4, for the witness and 12 for M1."""
    rows = table(witnessed, "data/seed-parts")
    owners = {row["prompt_id"]: row["part"] for row in rows}

    assert stage_record(witnessed, "data/seed-parts")["summary"]["tally"] == {
        "total": 16,
        "parts": {"policy": 12, "other": 4},
    }
    assert set(owners) == {row["prompt_id"] for row in table(witnessed, "data/seed")}
    for stage, used in (("sft/train", 12), ("witnesses/other/train", 4)):
        tally = stage_record(witnessed, stage)["summary"]["tally"]
        assert tally["total"] == used, stage


def test_a_witness_is_a_model_beside_m1_that_stays(witnessed: Path):
    assert not same_weights(weights(witnessed, "M1"), weights(witnessed, "other"))
    card = (witnessed / "models" / "other" / "README.md").read_text(encoding="utf-8")
    assert "supervised fine-tuning of M0" in card


def test_status_and_times_know_the_witness(witnessed: Path):
    states = {entry.stage: entry.state for entry in status_of(witnessed).stages}

    assert states["witnesses/other/train"] == "finished"
    assert summarise_run(witnessed).seconds["witnesses/other/train"] > 0


def test_without_witnesses_m1_gets_every_seed_example_in_the_order_of_its_sources(
    finished_run: Path,
):
    """So that runs made before there were witnesses keep their fingerprints."""
    from cream.runs.store import fingerprint

    rows = table(finished_run, "data/seed")
    content = [[row["prompt_id"], row["completion"][0]["content"]] for row in rows]

    assert stage_record(finished_run, "sft/train")["inputs"]["examples"] == fingerprint(content)
    assert not (finished_run / "data" / "seed-parts").exists()


@pytest.mark.parametrize("name", ["verifier", "policy", "Other", "a/b"])
def test_a_name_that_would_be_mistaken_for_something_else_is_refused(
    name: str, tmp_path: Path, tiny_recipe: MakeRecipe
):
    with pytest.raises(RecipeError, match="witnesses"):
        tiny_recipe(tmp_path, f"witnesses={{{name}: {{seed_share: 0.5}}}}")


def test_witnesses_must_leave_seed_examples_to_m1(tmp_path: Path, tiny_recipe: MakeRecipe):
    with pytest.raises(RecipeError, match="leave none to M1"):
        tiny_recipe(tmp_path, "witnesses={a: {seed_share: 0.5}, b: {seed_share: 0.5}}")
