"""Scorers that cannot work, and columns that nothing fills, are refused when the run is opened."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cream.errors import ModelError, RecipeError
from cream.recipe import Recipe
from cream.testing import tiny_reward_model_folder

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]


def test_scorers_that_cannot_work_are_refused_before_anything_is_made(
    tmp_path: Path, tiny_inputs: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    two = tiny_reward_model_folder(tmp_path / "two", outputs=2)
    refused: list[tuple[list[str], type[Exception], str]] = [
        (
            ["method.name=srlm_judge"],
            ModelError,
            r"method.judge: the rubric alone has \d+ tokens.*context of 512",
        ),
        (
            ["method.name=srlm_judge", "method.judge.model=./nowhere"],
            ModelError,
            r"method.judge: model folder .*nowhere does not exist",
        ),
        (
            ["method.name=reward_model", f"method.reward_model.name={two}"],
            ModelError,
            r"method.reward_model: .* has 2 outputs",
        ),
        (
            ["method.name=reward_model", f"method.reward_model.name={tiny_inputs / 'model'}"],
            ModelError,
            r"method.reward_model: .* no classifier at all",
        ),
    ]
    for i, (overrides, error, message) in enumerate(refused):
        with pytest.raises(error, match=message):
            run_whole(tiny_recipe(tmp_path / str(i), *overrides))
        assert not (tmp_path / str(i) / "recipe.yaml").exists()


def test_a_column_that_the_method_has_no_section_for_is_refused(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    """`cream` may compare with any score column, but nothing says who would judge."""
    witness = "method.witness={kind: score, column: judge}"
    with pytest.raises(RecipeError, match="reads the score column judge at iteration 1"):
        run_whole(tiny_recipe(tmp_path / "run", witness))
