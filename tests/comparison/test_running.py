"""Members of a comparison share what is equal, and are otherwise ordinary runs."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cream.comparison.members import ComparisonPlan, make_plan, parse_methods
from cream.comparison.running import run_comparison
from cream.protocols import Progress
from cream.recipe import Recipe
from kills import KillAt, Killed
from run_contents import contents, same_weights, stage_record, weights

Compare = Callable[..., Path]
MakeRecipe = Callable[..., Recipe]

KEEP = "method.pairing.truncated=keep"
BEFORE_PAIRS = {
    "data/seed",
    "data/prompts-1",
    "data/prompts-2",
    "data/test",
    "seed-model/evaluate",
    "sft/train",
    "sft/evaluate",
    "iteration-1/sample",
    "iteration-1/score/M0",
    "iteration-1/score/M1",
    "iteration-1/score/verifier",
    "iteration-1/matrix",
}
"""Stages that do not depend on the method, for methods that read the same columns."""


def plan(recipe_file: Path, methods: str, *overrides: str, **options: Any) -> ComparisonPlan:
    return make_plan(recipe_file, [KEEP, *overrides], parse_methods(methods), **options)


def go_on(plan: ComparisonPlan, recipe_file: Path, progress: Progress) -> Path:
    run_comparison(
        plan, progress, base_dir=recipe_file.parent, cache_dir=recipe_file.parent / "no-cache"
    )
    return plan.root


def shared(run: Path) -> dict[str, str]:
    """Stages that a run has taken over, and from where."""
    return {
        str(path.parent.relative_to(run)): str(
            (path.parent / json.loads(path.read_text("utf-8"))["run"]).resolve()
        )
        for path in run.rglob("shared.json")
    }


def tables_and_records(run: Path) -> dict[str, Any]:
    """Contents but for the pointers of shared stages and the summary, which a command writes."""
    found = contents(run)
    return {
        k: v for k, v in found.items() if not k.endswith(("shared.json", "summary.json", ".lock"))
    }


def test_stages_of_equal_fingerprint_are_made_once_and_shared(finished_comparison: Path):
    """The second method makes nothing before its pairs; its files are those of the first."""
    first, second = (finished_comparison / name / "seed-1" for name in ("cream", "srlm"))

    assert shared(first) == {}
    assert shared(second) == {stage: str(first.resolve()) for stage in BEFORE_PAIRS}
    for stage in BEFORE_PAIRS:
        for path in (second / stage).glob("*"):
            if path.name != "shared.json":
                assert os.path.samefile(path, first / stage / path.name), path
    assert os.path.samefile(
        first / "models/M1/model.safetensors", second / "models/M1/model.safetensors"
    )
    assert "Method: srlm" in (second / "models/M1/README.md").read_text(encoding="utf-8")
    assert "Method: cream" in (first / "models/M1/README.md").read_text(encoding="utf-8")


def test_members_equal_separate_runs_of_the_same_recipes(
    finished_comparison: Path,
    finished_run: Path,
    tiny_recipe: MakeRecipe,
    run_whole: Callable[..., Path],
    tmp_path: Path,
):
    srlm = "method={name: srlm, pairing: {truncated: keep}}"
    alone = {"cream": finished_run, "srlm": run_whole(tiny_recipe(tmp_path / "run", srlm))}

    for name, run in alone.items():
        member = finished_comparison / name / "seed-1"
        assert tables_and_records(member) == tables_and_records(run)
        for model in ("M1", "M2", "M3"):
            assert same_weights(weights(member, model), weights(run, model)), (name, model)


def test_a_later_stage_is_shared_too_if_two_methods_differ_only_later(
    recipe_file: Path, tmp_path: Path, silence: Progress
):
    """M_{t-1} and M0 are one witness at t = 1, so pairs, M2 and its answers are the same there.

    ``keep_checkpoints: last`` removes each run's own link of M1 only.
    """
    methods = "cream{witness: previous}, cream{witness: M0}"
    root = go_on(
        plan(recipe_file, methods, "keep_checkpoints=last", root=tmp_path / "out"),
        recipe_file,
        silence,
    )
    first, second = (root / f"cream-witness-{name}" / "seed-1" for name in ("previous", "M0"))

    later = {f"iteration-1/{stage}" for stage in ("pair", "train", "evaluate")}
    assert BEFORE_PAIRS | later | {"iteration-2/sample"} <= set(shared(second))
    assert "iteration-2/pair" not in shared(second)
    assert not (second / "models/M1").exists()
    assert (second / "models/M3/model.safetensors").exists()
    assert stage_record(first, "iteration-2/pair") != stage_record(second, "iteration-2/pair")


def killed_over_and_over(wanted: ComparisonPlan, recipe_file: Path, kind: str, every: int) -> int:
    """Run, killed at the `every`-th report of each attempt, until an attempt ends; count kills."""
    for kills in range(100):
        try:
            go_on(wanted, recipe_file, KillAt(kind, every))
        except Killed:
            continue
        return kills
    pytest.fail("the comparison does not get on between kills")


def assert_same_members(actual: Path, expected: Path, seeds: list[int]) -> None:
    for member in (f"{name}/seed-{seed}" for name in ("cream", "srlm") for seed in seeds):
        ours, theirs = actual / member, expected / member
        assert tables_and_records(ours) == tables_and_records(theirs)
        assert set(shared(ours)) == set(shared(theirs))
        for model in ("M1", "M2", "M3"):
            assert same_weights(weights(ours, model), weights(theirs, model)), (member, model)
    assert not list(actual.rglob(".tmp-*"))


def test_a_comparison_killed_within_stages_equals_an_uninterrupted_one(
    recipe_file: Path, tmp_path: Path, finished_comparison: Path
):
    """Killed after every fifth part or training step."""
    wanted = plan(recipe_file, "cream, srlm", seeds=[1], root=tmp_path / "out")
    kills = killed_over_and_over(wanted, recipe_file, "kept", 5)

    assert kills > 5
    assert_same_members(tmp_path / "out", finished_comparison, [1])


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "every"), [("start", 2), ("finish", 1)])
def test_a_comparison_killed_at_every_stage_boundary_equals_an_uninterrupted_one(
    kind: str, every: int, recipe_file: Path, tmp_path: Path, finished_comparison: Path
):
    """20 stages of the first member of each seed, 12 of the second: data stages say nothing.

    Of its 20 the second takes over 3 before the loop, and 5 of iteration 1.
    """
    wanted = plan(recipe_file, "cream, srlm", seeds=[1, 2], root=tmp_path / "out")
    kills = killed_over_and_over(wanted, recipe_file, kind, every)

    assert kills == (64 if kind == "finish" else 63)
    assert_same_members(tmp_path / "out", finished_comparison, [1, 2])


def test_methods_and_seeds_may_be_added_to_a_finished_comparison(
    recipe_file: Path, tmp_path: Path, finished_comparison: Path, silence: Progress
):
    """`oracle` takes over what `cream` has; the runs that were finished are not touched."""
    shutil.copytree(finished_comparison, tmp_path / "out")
    before = (tmp_path / "out/srlm/seed-1/iteration-2/train/stage.json").stat().st_mtime_ns
    root = go_on(
        plan(recipe_file, "cream, oracle", seeds=[1], root=tmp_path / "out"), recipe_file, silence
    )

    assert set(shared(root / "oracle" / "seed-1")) >= BEFORE_PAIRS
    assert (root / "srlm/seed-1/iteration-2/train/stage.json").stat().st_mtime_ns == before


class Heard:
    """A `Progress` that keeps what it is told."""

    def __init__(self) -> None:
        self.stages: list[str] = []
        self.notes: list[str] = []

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stages.append(stage)

    def advance(self, count: int, live: Any = None) -> None:
        pass

    def advance_to(self, done: int, total: int, live: Any = None) -> None:
        pass

    def finish(self, result: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_progress_says_which_member_of_how_many_and_what_was_shared(
    recipe_file: Path, tmp_path: Path
):
    heard = Heard()
    wanted = plan(recipe_file, "cream, srlm", "iterations=1", root=tmp_path / "out")
    go_on(wanted, recipe_file, heard)

    begun = [stage for stage in heard.stages if "sample" in stage or "iteration 1: pair" in stage]
    assert begun == [
        "1/2 cream, seed 1: iteration 1: sample from M1",
        "1/2 cream, seed 1: iteration 1: pair",
        "2/2 srlm, seed 1: iteration 1: pair",
    ]
    assert [note for note in heard.notes if "shared" in note] == [
        f"2/2 srlm, seed 1: 6 stages shared with {tmp_path / 'out/cream/seed-1'}",
        f"2/2 srlm, seed 1: 5 stages shared with {tmp_path / 'out/cream/seed-1'}",
    ]
