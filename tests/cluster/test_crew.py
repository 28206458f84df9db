"""A run on real Ray workers equals a run without them, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cream.loop.iterations import run_recipe
from cream.preflight.opening import open_context
from cream.runs.store import Run
from run_contents import contents, same_weights, weights

pytestmark = pytest.mark.cluster
ON_RAY = ("cluster=ray", "cluster.start_seconds=120")
SMALL = ("iterations=1", "sampling.prompts_per_shard=1", "evaluation.prompts_per_shard=3")


class Heard:
    """A `Progress` that keeps notes, and calls a function at each part that is kept."""

    def __init__(self, on_kept: Callable[[str, int], None] = lambda stage, parts: None) -> None:
        self.notes: list[str] = []
        self.on_kept, self.stage, self.parts = on_kept, "", 0

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage, self.parts = stage, 0

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        self.parts += 1
        self.on_kept(self.stage, self.parts)

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        pass

    def finish(self, result: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: Any, tiny_recipe: Any, run_whole: Any) -> Path:
    """The same run in one process."""
    return run_whole(tiny_recipe(tmp_path_factory.mktemp("alone") / "run", *SMALL))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_on_workers_equals_one_without_bit_for_bit(
    ray: Any, alone: Path, tmp_path: Path, tiny_recipe: Any, run_whole: Any, workers: int
):
    recipe = tiny_recipe(tmp_path / "run", *SMALL, *ON_RAY, f"cluster.workers={workers}")
    heard = Heard()

    run_whole(recipe, heard)

    assert contents(tmp_path / "run") == contents(alone)
    assert same_weights(weights(tmp_path / "run", "M2"), weights(alone, "M2"))
    assert any(f"{workers} workers on 1 nodes ready" in note for note in heard.notes)


def test_a_worker_that_is_killed_loses_its_shard_to_another(
    ray: Any, alone: Path, tmp_path: Path, tiny_recipe: Any, tiny_inputs: Path
):
    """SIGKILL after the second part of sampling, while others are under way."""
    killed: list[int] = []

    def kill_one(stage: str, parts: int) -> None:
        if "sample" in stage and parts == 2 and not killed:
            (crew,) = crews
            pids = [m.about.pid for m in crew._members if m.alive and m.about is not None]
            os.kill(pids[0], signal.SIGKILL)
            killed.append(pids[0])

    recipe = tiny_recipe(tmp_path / "run", *SMALL, *ON_RAY, "cluster.workers=2")
    heard, crews = Heard(kill_one), []
    place = Run(Path(recipe.folder))
    with place.locked():
        context = open_context(
            recipe, place, heard, base_dir=tiny_inputs, cache_dir=tiny_inputs / "none"
        )
        crews.append(context.crew)
        try:
            run_recipe(context)
        finally:
            context.close()

    assert killed
    left = {k: v for k, v in contents(alone).items() if k != "summary.json"}
    assert contents(tmp_path / "run") == left
    assert any("died" in note and "another" in note for note in heard.notes)
