"""Metrics are lines that can be read at any time; each point reaches each tracker once, and no
tracker can stop a run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from cream.errors import DependencyError, RunError
from cream.protocols import Tracker
from cream.recipe.trackers import MlflowConfig, TensorBoardConfig, TrackioConfig, WandbConfig
from cream.runs.trackers import (
    JsonlTracker,
    Ledger,
    RunTrackers,
    Sender,
    check_installed,
)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_one_line_per_step_is_appended(tmp_path: Path):
    path = tmp_path / "new" / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log({"loss": 0.5, "rewards/margins": 1}, step=1, stage="train")
    assert lines(path) == [{"stage": "train", "step": 1, "loss": 0.5, "rewards/margins": 1.0}]

    JsonlTracker(path).log({"loss": 0.25}, step=2, stage="train")
    assert [line["step"] for line in lines(path)] == [1, 2]
    assert isinstance(tracker, Tracker)


def test_what_is_not_finite_is_null_since_json_has_no_word_for_it(tmp_path: Path):
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    tracker.log({"a": float("nan"), "b": float("inf"), "c": 0.0}, step=0, stage="s")

    assert lines(tracker.path)[0] == {"stage": "s", "step": 0, "a": None, "b": None, "c": 0.0}


def test_clearing_forgets_and_may_be_repeated(tmp_path: Path):
    tracker = JsonlTracker(tmp_path / "metrics.jsonl")
    tracker.log({"a": 1.0}, step=0, stage="s")
    tracker.clear()
    tracker.clear()

    assert not tracker.path.exists()


class Remembering:
    """A tracker that keeps what it is given, and fails at the steps it is told to."""

    def __init__(self, fail_at: tuple[int, ...] = ()) -> None:
        self.points: list[tuple[str, int, dict[str, float]]] = []
        self.fail_at, self.closed = fail_at, 0

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        if step in self.fail_at:
            raise ConnectionError("no route to host\nsecond line")
        self.points.append((stage, step, dict(metrics)))

    def close(self) -> None:
        self.closed += 1

    def steps(self, stage: str) -> list[int]:
        return [step for name, step, _ in self.points if name == stage]


def together(
    folder: Path, *trackers: Remembering, warnings: list[str] | None = None
) -> RunTrackers:
    senders = [
        Sender(f"tracker-{i}", tracker, Ledger(folder / f"{i}.json"))
        for i, tracker in enumerate(trackers)
    ]
    return RunTrackers(senders, ([] if warnings is None else warnings).append)


COURSE = [{"loss": 1.0 / step} for step in range(1, 7)]
"""Metrics of a training of six steps."""


def test_a_resumed_training_sends_no_step_twice_and_leaves_none_out(tmp_path: Path):
    """Killed after step 4, restored from a state of step 2: steps 3 and 4 are made again."""
    tracker = Remembering()
    before = together(tmp_path, tracker)
    for step in (1, 2, 3, 4):
        before.live("sft/train", step, COURSE[step - 1])
    after = together(tmp_path, tracker)
    for step in (3, 4, 5, 6):
        after.live("sft/train", step, COURSE[step - 1])
    after.course("sft/train", COURSE)

    assert tracker.points == [("sft/train", s, COURSE[s - 1]) for s in (1, 2, 3, 4, 5, 6)]


def test_a_tracker_that_was_added_later_gets_the_whole_course_in_order(tmp_path: Path):
    tracker = Remembering()
    trackers = together(tmp_path, tracker)
    trackers.live("sft/train", 5, COURSE[4])
    assert tracker.points == []

    trackers.course("sft/train", COURSE)
    assert tracker.steps("sft/train") == [1, 2, 3, 4, 5, 6]


def test_stages_have_steps_of_their_own_and_may_begin_at_zero(tmp_path: Path):
    tracker = Remembering()
    for _ in range(2):
        trackers = together(tmp_path, tracker)
        trackers.point("models", 0, {"accuracy": 0.1})
        trackers.live("sft/train", 1, {"loss": 1.0})
        trackers.point("models", 1, {"accuracy": 0.2})

    assert tracker.steps("models") == [0, 1]
    assert tracker.steps("sft/train") == [1]


def test_a_failing_tracker_is_told_once_and_left_out_and_the_others_go_on(tmp_path: Path):
    broken, sound, warnings = Remembering(fail_at=(3,)), Remembering(), []
    trackers = together(tmp_path, broken, sound, warnings=warnings)
    for step, metrics in enumerate(COURSE, start=1):
        trackers.live("sft/train", step, metrics)
    trackers.course("sft/train", COURSE)
    trackers.close()

    assert broken.steps("sft/train") == [1, 2]
    assert sound.steps("sft/train") == [1, 2, 3, 4, 5, 6]
    assert (broken.closed, sound.closed) == (0, 1)
    assert len(warnings) == 1
    assert "tracker-0 failed at sft/train step 3 (ConnectionError: no route to host)" in warnings[0]
    assert "second line" not in warnings[0]


def test_what_a_failing_tracker_missed_is_sent_by_the_next_command(tmp_path: Path):
    tracker = Remembering(fail_at=(3,))
    together(tmp_path, tracker).course("sft/train", COURSE)
    tracker.fail_at = ()
    together(tmp_path, tracker).course("sft/train", COURSE)

    assert tracker.steps("sft/train") == [1, 2, 3, 4, 5, 6]


def test_values_that_are_not_finite_are_left_out_of_a_point(tmp_path: Path):
    tracker = Remembering()
    together(tmp_path, tracker).point("s", 1, {"a": float("nan"), "b": float("inf"), "c": 0.0})

    assert tracker.points == [("s", 1, {"c": 0.0})]


def test_the_key_of_a_run_directory_stays_and_differs_from_another(tmp_path: Path):
    first, other = Ledger(tmp_path / "a.json"), Ledger(tmp_path / "b.json")
    first.enter("s", 1)

    assert Ledger(tmp_path / "a.json").key == first.key != other.key
    assert len(first.key) == 8


def test_a_damaged_ledger_is_refused_by_name(tmp_path: Path):
    (tmp_path / "wandb.json").write_text('{"sent": []}', encoding="utf-8")

    with pytest.raises(RunError, match=r"wandb.json lacks `key` or `sent`.*delete it"):
        Ledger(tmp_path / "wandb.json")


@pytest.mark.parametrize(
    "config", [TensorBoardConfig(), TrackioConfig(), WandbConfig(), MlflowConfig()]
)
def test_a_tracker_that_is_not_installed_is_refused_with_the_extra(
    config, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, config.name, None)  # as if it were not there

    with pytest.raises(DependencyError, match=rf"{config.name} .*cream-align\[trackers\]"):
        check_installed([config])


@pytest.mark.parametrize(
    "config",
    [
        TensorBoardConfig(),
        # Of an extra that `make test` does not install.
        pytest.param(TrackioConfig(), marks=pytest.mark.slow),
        pytest.param(WandbConfig(), marks=pytest.mark.slow),
        pytest.param(MlflowConfig(), marks=pytest.mark.slow),
    ],
    ids=lambda config: config.name,
)
def test_opening_a_tracker_writes_nothing_and_imports_no_library(config, tmp_path: Path):
    """In a process of its own, where no test before can have imported the library."""
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "from cream.recipe.trackers import *\n"
        "from cream.runs.trackers import TrackedRun, open_trackers\n"
        f"run = TrackedRun('x', Path({str(tmp_path / 'run')!r}), {{}})\n"
        f"open_trackers([{type(config).__name__}()], run, print).close()\n"
        f"sys.exit({config.name!r} in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert not (tmp_path / "run").exists()


def test_what_tests_send_to_is_a_tracker():
    assert isinstance(Remembering(), Tracker)
