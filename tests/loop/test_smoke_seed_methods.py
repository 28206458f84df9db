"""The smoke recipes of the methods that divide the seed data, or learn from it, run as they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cream.errors import RunError
from cream.programs.recompute import recompute_pairs
from cream.recipe import load_recipe
from run_contents import table

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke"
RunWhole = Callable[..., Path]


def run_smoke(name: str, tmp_path: Path, inputs: Path, run_whole: RunWhole) -> Path:
    overrides = [f"model.name={inputs / 'model'}", f"run_dir={tmp_path / 'run'}"]
    return run_whole(load_recipe(SMOKE / f"{name}.yaml", overrides))


def pairs(root: Path, stage: str) -> dict[str, tuple[str, str]]:
    rows = [row for row in table(root, stage) if "chosen_id" in row]
    return {row["prompt_id"]: (row["chosen_id"], row["rejected_id"]) for row in rows}


@pytest.mark.slow
def test_cream_cross_trains_on_those_of_srlms_pairs_that_the_witness_confirms(
    tmp_path: Path, tiny_inputs: Path, run_whole: RunWhole
):
    """How many it confirms hangs on rounding, and so on the processor; which follows from it."""
    root = run_smoke("cream_cross", tmp_path, tiny_inputs, run_whole)
    recompute_pairs(root, 1, ["method={name: srlm, pairing: {truncated: keep}}"], tmp_path / "srlm")
    cross, srlm = pairs(root, "iteration-1/pair"), pairs(tmp_path, "srlm")

    rows = {row["completion_id"]: row for row in table(root, "iteration-1/matrix")}

    def confirmed(pair: tuple[str, str]) -> bool:
        chosen, rejected = (rows[key]["logps_other"] / rows[key]["num_tokens"] for key in pair)
        return chosen > rejected

    assert cross
    assert cross == {prompt: pair for prompt, pair in srlm.items() if confirmed(pair)}
    assert (root / "models" / "M2" / "model.safetensors").exists()


@pytest.mark.slow
def test_spin_learns_from_the_seed_prompts_and_srlm_makes_no_pairs_like_its(
    tmp_path: Path, tiny_inputs: Path, run_whole: RunWhole
):
    """Every pair of SPIN prefers a seed completion; SRLM prefers what M1 rewards most."""
    root = run_smoke("spin", tmp_path, tiny_inputs, run_whole)
    found = pairs(root, "iteration-1/pair")
    seed = {row["prompt_id"] for row in table(root, "data/seed")}
    recompute_pairs(root, 1, ["method={name: srlm, pairing: {truncated: keep}}"], tmp_path / "srlm")

    assert found
    assert set(found) <= seed
    assert all("-data-" in chosen for chosen, _ in found.values())
    assert found != pairs(tmp_path, "srlm")
    assert (root / "models" / "M2" / "model.safetensors").exists()


@pytest.mark.slow
def test_a_run_without_data_completions_cannot_be_paired_by_spin(
    tmp_path: Path, tiny_inputs: Path, run_whole: RunWhole
):
    root = run_smoke("cream_cross", tmp_path, tiny_inputs, run_whole)

    with pytest.raises(RunError, match="has no column from_data"):
        recompute_pairs(root, 1, ["method=spin"], tmp_path / "spin")
