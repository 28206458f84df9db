"""Trackers in a recipe: by name or with options, each once, and only with their own options."""

from __future__ import annotations

import pytest

from cream.errors import RecipeError
from cream.recipe import Recipe
from cream.recipe.load import parse_recipe
from cream.recipe.trackers import MlflowConfig, TensorBoardConfig, WandbConfig

FRAME = """
name: x
iterations: 1
data:
  seed: {sources: [{source: file, path: seed.jsonl}]}
  prompts: {per_iteration: 1, sources: [{source: file, path: p.jsonl}]}
"""


def parse(trackers: str) -> Recipe:
    return parse_recipe(f"{FRAME}trackers: {trackers}\n")


def test_trackers_are_named_or_given_options():
    recipe = parse("[tensorboard, {name: wandb, project: p, mode: offline}, {name: mlflow}]")

    assert recipe.trackers == [
        TensorBoardConfig(),
        WandbConfig(project="p", mode="offline"),
        MlflowConfig(experiment="cream", uri=None),
    ]
    assert parse("[]").trackers == []


@pytest.mark.parametrize(
    ("trackers", "message"),
    [
        ("[wandb, {name: wandb, project: p}]", "wandb stands here twice"),
        ("[wanbd]", "`name` cannot be 'wanbd'; did you mean 'wandb'"),
        ("[{project: p}]", "needs `name`, one of tensorboard, trackio, wandb, mlflow"),
        ("[{name: mlflow, project: p}]", "trackers.0.project: unknown key"),
        ("[{name: wandb, mode: disabled}]", "trackers.0.mode"),
    ],
)
def test_what_a_tracker_does_not_have_is_refused(trackers: str, message: str):
    with pytest.raises(RecipeError) as info:
        parse(trackers)

    assert message in str(info.value)
