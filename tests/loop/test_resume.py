from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cream.protocols import Progress
from cream.recipe import Recipe
from kills import KillAt, Killed, KillOncePerStage
from run_contents import contents, same_weights, weights

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]


def run_killed_over_and_over(
    run_whole: RunWhole, recipe: Recipe, next_attempt: Callable[[], Progress]
) -> int:
    """Run until an attempt ends, each with the progress that kills it; count kills."""
    for kills in range(100):
        try:
            run_whole(recipe, next_attempt())
        except Killed:
            continue
        return kills
    pytest.fail("the run does not get on between kills")


def assert_same_run(actual: Path, expected: Path) -> None:
    assert contents(actual) == contents(expected)
    for name in ("M1", "M2", "M3"):
        assert same_weights(weights(actual, name), weights(expected, name)), name
    assert not list(actual.rglob(".tmp-*"))
    assert not list(actual.rglob("state"))


@pytest.mark.parametrize("kind", ["start", "finish"])
def test_a_run_killed_at_every_stage_boundary_equals_an_uninterrupted_one(
    kind: str,
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    finished_run: Path,
):
    """Killed as each stage begins (after 2: the one before was just begun), or has just finished.

    20 stages: 4 evaluations, fine-tuning, 2 samplings, 2 + 3 scorings, 2 verifications, 2
    matrices, 2 pairings, 2 trainings. Each attempt gets one stage further.
    """
    every = 2 if kind == "start" else 1
    kills = run_killed_over_and_over(
        run_whole, tiny_recipe(tmp_path / "run"), lambda: KillAt(kind, every)
    )

    assert kills == (19 if kind == "start" else 20)
    assert_same_run(tmp_path / "run", finished_run)


def test_a_run_killed_between_parts_and_steps_equals_an_uninterrupted_one(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole, finished_run: Path
):
    """Killed after every third part or training step, so some attempts end within a stage.

    A training saves its state after the step is reported: three reports an attempt go two steps on.
    """
    kills = run_killed_over_and_over(
        run_whole, tiny_recipe(tmp_path / "run"), lambda: KillAt("kept", 3)
    )

    assert kills > 12
    assert_same_run(tmp_path / "run", finished_run)


@pytest.mark.parametrize(("after", "stages"), [(3, 14), (7, 12)])
def test_a_run_killed_within_a_part_of_every_stage_equals_an_uninterrupted_one(
    after: int,
    stages: int,
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    finished_run: Path,
):
    """What a part had done is lost and done again; the parts before it are kept.

    The third report is within the first part of 4 evaluations, 2 samplings and 5 scorings, and
    the third step of 3 trainings. The seventh is within the second part of the samplings and
    scorings; of the trainings only the first has as many steps.
    """
    progress = KillOncePerStage(after)
    kills = run_killed_over_and_over(run_whole, tiny_recipe(tmp_path / "run"), lambda: progress)

    assert kills == len(progress.killed) == stages
    assert_same_run(tmp_path / "run", finished_run)


def test_leftovers_of_interrupted_writes_are_cleared_away(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole, finished_run: Path
):
    recipe = tiny_recipe(tmp_path / "run")
    with pytest.raises(Killed):
        run_whole(recipe, KillAt("start", 2))
    (tmp_path / "run" / ".tmp-recipe.yaml").write_text("half")
    (tmp_path / "run" / "models" / ".tmp-model").mkdir(parents=True)
    (tmp_path / "run" / "sft" / "train" / ".tmp-x.json").parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "run" / "sft" / "train" / ".tmp-x.json").write_text("half")
    half = tmp_path / "run" / "models" / "M1"
    half.mkdir()
    (half / "config.json").write_text("half a model")

    run_whole(recipe)

    assert_same_run(tmp_path / "run", finished_run)


def test_a_run_killed_before_its_recipe_was_whole_can_begin_again(
    tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".tmp-abc.yaml").write_text("half")

    with pytest.raises(Killed):
        run_whole(tiny_recipe(tmp_path / "run"), KillAt("start", 1))

    assert (tmp_path / "run" / "recipe.yaml").exists()
