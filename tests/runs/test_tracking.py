"""Metrics are lines that can be read while the run goes on."""

import json
from pathlib import Path

from cream.protocols import Tracker
from cream.runs.tracking import JsonlTracker


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
