"""Metrics of a run: JSON lines beside every stage, and the trackers that people look at.

Every stage has one x axis, its own step from 1, and is a run of its own in a tracker, named after
the stage. So a metric keeps the name that the field gives it (``rewards/margins``) and the
iterations lie over each other in one chart.

Each point goes once to each tracker, and none of them can stop a run. Training is deterministic, so
a step that is made again after an interruption has the values that were sent before; it is left
out. A tracker that fails is set aside for the rest of the command with one warning, and what it
missed is sent when the command is given again. `cream.runs.tracker_libraries` has one class per
library, which only passes points on; a library is imported when the first point is sent.
"""

from __future__ import annotations

import importlib.util
import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never, final

from cream.errors import DependencyError, RunError
from cream.protocols import Tracker
from cream.recipe.trackers import (
    MlflowConfig,
    TensorBoardConfig,
    TrackerConfig,
    TrackioConfig,
    WandbConfig,
)
from cream.runs.files import read_sealed, write_sealed
from cream.runs.tracker_libraries import (
    MlflowTracker,
    TensorBoardTracker,
    TrackioTracker,
    WandbTracker,
)


@final
class JsonlTracker:
    """A `Tracker` that appends to a file. Values that are not finite are written as null."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def log(self, metrics: Mapping[str, float], *, step: int, stage: str) -> None:
        """Append one line: stage, step, then the metrics under their field names."""
        finite = {k: (float(v) if math.isfinite(v) else None) for k, v in metrics.items()}
        line = json.dumps({"stage": stage, "step": step, **finite})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def close(self) -> None:
        """Nothing is held: every line is in the file."""

    def clear(self) -> None:
        """Forget everything logged so far."""
        self.path.unlink(missing_ok=True)


def logged_metrics(path: Path) -> list[dict[str, float]]:
    """The metrics of a `JsonlTracker`'s file, one mapping per line; nulls are left out."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("stage", "step") and v is not None}
        for line in lines
    ]


@final
class Ledger:
    """The last step of each stage that a tracker was sent, in a JSON file of the run."""

    def __init__(self, path: Path) -> None:
        """Read the file, or begin one with a new `key`.

        Raises:
            RunError: The file is damaged.
        """
        self.path = path
        new = {"key": secrets.token_hex(4), "sent": {}}
        held = read_sealed(path, required=False) if path.exists() else new
        key, sent = held.get("key"), held.get("sent")
        if not isinstance(key, str) or not isinstance(sent, dict):
            raise RunError(
                f"{path} lacks `key` or `sent`; it was changed by hand: delete it to send the "
                "metrics of this run again"
            )
        self.key: str = key
        """Tells the runs of this run directory from those of any other in the same tracker."""
        self._sent: dict[str, int] = sent

    def last(self, stage: str) -> int | None:
        """The last step of a stage that was sent, or None."""
        return self._sent.get(stage)

    def enter(self, stage: str, step: int | None) -> None:
        """Record the last step of a stage; None takes its entry back."""
        if step is None:
            self._sent.pop(stage, None)
        else:
            self._sent[stage] = step
        write_sealed(self.path, {"key": self.key, "sent": self._sent})


Warn = Callable[[str], None]


@final
class Sender:
    """One tracker with its ledger."""

    def __init__(self, name: str, tracker: Tracker, ledger: Ledger) -> None:
        self.name, self.tracker, self.ledger = name, tracker, ledger

    def send(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Pass a point on, unless it or a later one of its stage was sent before.

        It is entered before it is handed over: a point that a kill loses stands in the stage's own
        metrics file, and a point that stands twice in a tracker cannot be taken back.
        """
        last = self.ledger.last(stage)
        if last is not None and step <= last:
            return
        self.ledger.enter(stage, step)
        try:
            self.tracker.log(metrics, step=step, stage=stage)
        except Exception:
            self.ledger.enter(stage, last)
            raise


@final
class RunTrackers:
    """The trackers of a run. Values that are not finite are left out of a point."""

    def __init__(self, senders: Sequence[Sender] = (), warn: Warn = lambda text: None) -> None:
        """Take trackers, and who is told when one of them fails."""
        self._senders, self._warn = list(senders), warn

    def point(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Send one point of a stage whose steps come in order."""
        for sender in list(self._senders):
            self._send(sender, stage, step, metrics)

    def live(self, stage: str, step: int, metrics: Mapping[str, float]) -> None:
        """Send one step of a course that begins at 1, if it is the next one of that tracker.

        A tracker that lacks earlier steps (it was added after an interruption) gets all of them in
        order from `course`, at the end of the stage.
        """
        for sender in list(self._senders):
            if step == (sender.ledger.last(stage) or 0) + 1:
                self._send(sender, stage, step, metrics)

    def course(self, stage: str, metrics: Sequence[Mapping[str, float]]) -> None:
        """Send whatever is missing of a whole course, whose first step is 1."""
        for sender in list(self._senders):
            begin = sender.ledger.last(stage) or 0
            for step, values in enumerate(metrics[begin:], start=begin + 1):
                if not self._send(sender, stage, step, values):
                    break

    def close(self) -> None:
        """Let every tracker finish what it holds; points may follow all the same."""
        for sender in list(self._senders):
            try:
                sender.tracker.close()
            except Exception as error:  # as in `_send`
                self._senders.remove(sender)
                self._complain(sender, error, "while it was closed")

    def _send(self, sender: Sender, stage: str, step: int, metrics: Mapping[str, float]) -> bool:
        finite = {name: float(v) for name, v in metrics.items() if math.isfinite(v)}
        try:
            sender.send(stage, step, finite)
        # Whatever a tracking library or its network raises must not cost the run.
        except Exception as error:
            self._senders.remove(sender)
            self._complain(sender, error, f"at {stage} step {step}")
            return False
        return True

    def _complain(self, sender: Sender, error: Exception, where: str) -> None:
        lines = str(error).strip().splitlines()
        self._warn(
            f"tracker {sender.name} failed {where} ({type(error).__name__}"
            f"{': ' + lines[0] if lines else ''}). The run goes on without it and its own files "
            "have every figure; what it missed is sent when the command is given again"
        )


FOLDER = "trackers"
"""Folder of a run directory with one ledger per tracker."""


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What trackers are told of a run beside its metrics."""

    name: str
    root: Path
    recipe: Mapping[str, Any]
    """The resolved recipe, JSON values."""


def check_installed(trackers: Sequence[TrackerConfig]) -> None:
    """Find out whether the libraries are there, without importing them.

    Raises:
        DependencyError: One is not; the message names the package and how to get it.
    """
    for tracker in trackers:
        if importlib.util.find_spec(tracker.name) is None:  # each is named like its package
            raise DependencyError(
                f"trackers: {tracker.name} needs the package {tracker.name}, which is not "
                "installed. Install it (pip install 'cream-align[trackers]'), or remove it from "
                "the recipe"
            )


def open_trackers(trackers: Sequence[TrackerConfig], run: TrackedRun, warn: Warn) -> RunTrackers:
    """Make the trackers of a run; nothing is written or sent before the first point.

    Args:
        trackers: From the recipe.
        run: Which run.
        warn: Told once when a tracker fails.

    Raises:
        DependencyError: See `check_installed`.
        RunError: A ledger of the run directory is damaged.
    """
    check_installed(trackers)
    senders = []
    for config in trackers:
        ledger = Ledger(run.root / FOLDER / f"{config.name}.json")
        senders.append(Sender(config.name, _tracker(config, run, ledger.key), ledger))
    return RunTrackers(senders, warn)


def _tracker(config: TrackerConfig, run: TrackedRun, key: str) -> Tracker:
    match config:
        case TensorBoardConfig():
            folder = Path(config.folder) if config.folder else run.root / "tensorboard"
            return TensorBoardTracker(folder)
        case TrackioConfig():
            return TrackioTracker(config, run.name, key, run.recipe)
        case WandbConfig():
            return WandbTracker(config, run.name, key, run.recipe, run.root / FOLDER)
        case MlflowConfig():
            return MlflowTracker(config, run.name, key, run.recipe)
        case _:
            assert_never(config)
