"""A whole run with a tracker: what is sent, and what a broken or missing tracker does to it."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from cream.errors import DependencyError
from cream.recipe import Recipe


class Silence:
    """A `Progress` that shows nothing."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None: ...
    def advance(self, count: int, live: object = None) -> None: ...
    def advance_to(self, done: int, total: int, live: object = None) -> None: ...
    def finish(self, result: str = "") -> None: ...
    def note(self, text: str) -> None: ...


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Per metric its points, as TensorBoard reads them."""
    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def logged(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_tracker_added_to_a_finished_run_gets_every_stage_once(
    finished_run: Path,
    tiny_recipe: Callable[..., Recipe],
    run_whole: Callable[..., Path],
    tmp_path: Path,
):
    """Nothing is trained again; given once more, the command sends nothing."""
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    for _ in range(2):
        run_whole(tiny_recipe(root, "trackers=[tensorboard]"))

    for stage in ("sft/train", "iteration-1/train", "iteration-2/train"):
        lines = logged(root / stage / "metrics.jsonl")
        sent = scalars(root / "tensorboard" / stage)
        assert set(sent) == set(lines[0]) - {"stage", "step"}
        for tag, points in sent.items():
            assert points == [(x["step"], pytest.approx(x[tag], rel=1e-5)) for x in lines]
    assert "rewards/margins" in scalars(root / "tensorboard/iteration-1/train")
    models = scalars(root / "tensorboard/models")["accuracy"]
    summary = json.loads((root / "summary.json").read_text(encoding="utf-8"))
    expected = [m["overall"]["accuracy"] for m in summary["models"]]
    assert models == [(m, pytest.approx(a, rel=1e-6)) for m, a in enumerate(expected)]
    rates = scalars(root / "tensorboard/iterations")["consistency/rate"]
    expected = [i["consistency"]["rate"] for i in summary["iterations"]]
    assert rates == [(t, pytest.approx(r, rel=1e-6)) for t, r in enumerate(expected, start=1)]


class Stopped(BaseException):
    """An interruption, as the command line raises it."""


class StopAtStep(Silence):
    """Interrupts the training of iteration 1 after its third step was logged."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage = stage

    def advance_to(self, done: int, total: int, live: object = None) -> None:
        if self.stage.startswith("iteration 1: train") and done == 3:
            raise Stopped


def test_an_interrupted_training_leaves_each_step_once_in_the_tracker(
    finished_run: Path,
    tiny_recipe: Callable[..., Recipe],
    run_whole: Callable[..., Path],
    tmp_path: Path,
):
    """Step 3 was logged and not yet saved, so the second attempt makes it again."""
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    for name in ("iteration-1/train", "iteration-1/evaluate", "iteration-2", "models/M2"):
        shutil.rmtree(root / name)
    recipe = tiny_recipe(root, "trackers=[tensorboard]")
    with pytest.raises(Stopped):
        run_whole(recipe, StopAtStep())
    (interrupted,) = {len(p) for p in scalars(root / "tensorboard/iteration-1/train").values()}
    assert not (root / "iteration-1/train/stage.json").exists()
    time.sleep(1.1)  # event files are ordered by the second in their names, as processes are
    run_whole(recipe)

    lines = logged(root / "iteration-1/train/metrics.jsonl")
    assert 3 == interrupted < len(lines)
    for tag, points in scalars(root / "tensorboard/iteration-1/train").items():
        assert points == [(x["step"], pytest.approx(x[tag], rel=1e-5)) for x in lines]


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_written(
    tiny_recipe: Callable[..., Recipe],
    run_whole: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setitem(sys.modules, "wandb", None)

    with pytest.raises(DependencyError, match=r"wandb.*not installed.*cream-align\[trackers\]"):
        run_whole(tiny_recipe(tmp_path / "run", "trackers=[{name: wandb, project: x}]"))
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]


def test_a_tracker_that_cannot_write_warns_once_and_the_run_finishes(
    finished_run: Path,
    tiny_recipe: Callable[..., Recipe],
    run_whole: Callable[..., Path],
    tmp_path: Path,
):
    """The folder of the event files is a file, so the real library fails at the first point."""
    root, notes = tmp_path / "run", []
    shutil.copytree(finished_run, root)
    shutil.rmtree(root / "iteration-2" / "evaluate")
    (tmp_path / "events").write_text("not a folder", encoding="utf-8")

    class Notes(Silence):
        def note(self, text: str) -> None:
            notes.append(text)

    folder = tmp_path / "events"
    run_whole(tiny_recipe(root, f"trackers=[{{name: tensorboard, folder: {folder}}}]"), Notes())

    assert (root / "iteration-2" / "evaluate" / "stage.json").exists()
    assert len([n for n in notes if "tracker tensorboard failed at models step 0" in n]) == 1
    assert len([n for n in notes if "tracker" in n]) == 1
