"""A run does what its plan says: same stages, same order, same labels, same counts."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cream.plan import token_counts
from cream.preflight.opening import check_run
from cream.recipe import Recipe
from cream.recipe.pairing import AllPairs, BestWorst, TopBottom, most_pairs
from cream.records import StageSpec
from cream.runs.store import Run


class Told:
    """A `Progress` that keeps the stages it is told of."""

    def __init__(self) -> None:
        self.stages: list[str] = []

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stages.append(stage)

    def advance(self, count: int, live: Any = None) -> None:
        """Ignore."""

    def advance_to(self, done: int, total: int, live: Any = None) -> None:
        """Ignore."""

    def finish(self, result: str = "") -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


METHODS = {
    "cream": (),
    "witness and calibration": (
        "witnesses={twin: {seed_share: 0.25}}",
        "calibration={seed_share: 0.25}",
        "method={name: cream_cross, witness: twin, pairing: {truncated: keep}}",
    ),
    "a witness that learns along": (
        "witnesses={twin: {seed_share: 0.5}}",
        "training.replay={share: 0.5}",
        "method={name: cream_cross, witness: twin, agreement: answer, witness_training: along, "
        "pairing: {truncated: keep, unanimous: nll}, "
        "objective: {nll: {kind: constant, weight: 1}}}",
        "sampling.temperature=0.5",
        "sft.epochs=30",
    ),
    "an answer beside each pair": ("method={name: selm, pairing: {truncated: keep}}",),
    "goals": (
        "method={name: reward_augmented, pairing: {truncated: keep}, goals: {text: 'to {goal}'}}",
    ),
    "seed prompts, no test": ("method={name: spin, truncated: keep}", "data.test=null"),
}


@pytest.mark.parametrize("overrides", METHODS.values(), ids=METHODS)
def test_a_run_does_what_its_plan_says(
    overrides: tuple[str, ...],
    tmp_path: Path,
    tiny_inputs: Path,
    tiny_recipe: Callable[..., Recipe],
    run_whole: Callable[..., Path],
):
    recipe, told = tiny_recipe(tmp_path / "run", "iterations=1", *overrides), Told()
    stages = planned(recipe, tiny_inputs)
    root = run_whole(recipe, told)

    assert [stage.label for stage in stages] == told.stages
    made = {str(path.parent.relative_to(root)) for path in root.rglob("stage.json")}
    assert {stage.name for stage in stages} == {n for n in made if not n.startswith("data/")}
    records = {stage.name: summary(root, stage.name) for stage in stages}
    for stage in stages:
        record = records[stage.name]
        if stage.kind == "sample":
            assert record["completions"] == stage.completions
        if stage.kind in ("evaluate", "evaluate_goal"):
            assert record["answers"] == stage.completions
        if stage.kind == "fine_tune":
            assert record["tally"]["total"] == stage.completions
        if stage.kind == "train":
            assert 0 < record["tally"]["total"] <= stage.completions / 2


def planned(recipe: Recipe, inputs: Path) -> list[StageSpec]:
    context = check_run(
        recipe, Run(Path(recipe.folder)), Told(), base_dir=inputs, cache_dir=inputs / "no-cache"
    )
    stages = [spec for spec in context.plan.stages if spec.source is not None]
    encode = partial(context.encode, max_completion_tokens=0)
    counts = token_counts(context.plan, encode, context.encoder.encode_completion)
    assert {stage.source for stage in stages} == set(counts)
    # "7+4=" is 4 bytes, the template adds its turn; an answer is one byte and the end token.
    assert {name: c.completion for name, c in counts.items() if name.startswith("seed/")} == {
        name: 2.0 for name in counts if name.startswith("seed/")
    }
    assert not Path(recipe.folder).exists()
    return stages


def summary(root: Path, stage: str) -> dict[str, Any]:
    return json.loads((root / stage / "stage.json").read_text(encoding="utf-8"))["summary"]


def test_the_most_pairs_of_a_rule():
    """Of 4 completions there are 6 pairs; the two best with the two worst are 4 of them."""
    assert most_pairs(BestWorst(), 4) == 1
    assert most_pairs(AllPairs(), 4) == 6
    assert most_pairs(TopBottom(k=2), 4) == 4
    assert most_pairs(TopBottom(k=3), 4) == 6
