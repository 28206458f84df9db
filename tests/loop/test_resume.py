from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from run_contents import contents, same_weights, weights

from cream.protocols import Progress
from cream.recipe import Recipe

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]


class Killed(BaseException):
    """Stands for a kill: no handler of ours may catch it."""


class KillAt:
    """A `Progress` that kills the run at its n-th report of one kind.

    The kinds are ``start`` and ``finish`` of a stage, and ``kept``: a part, or a training step.
    What is done within a part is reported too (`advance_to`) and is none of them.
    """

    def __init__(self, kind: str, after: int) -> None:
        self.kind, self.left = kind, after
        self.training = False

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.training = unit == "steps"
        self._report("start")

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        self._report("kept")

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        if self.training:
            self._report("kept")

    def finish(self, result: str = "") -> None:
        self._report("finish")

    def note(self, text: str) -> None:
        pass

    def _report(self, kind: str) -> None:
        if kind == self.kind:
            self.left -= 1
            if self.left == 0:
                raise Killed


class KillOncePerStage:
    """A `Progress` that kills the run once in every stage, at the n-th report within it.

    It is shared by the attempts: a stage that was killed once is left alone from then on.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self.stage, self.reports = "", 0
        self.killed: list[str] = []

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage, self.reports = stage, 0

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        pass

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        self.reports += 1
        if self.reports == self.after and self.stage not in self.killed:
            self.killed.append(self.stage)
            raise Killed

    def finish(self, result: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass


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
