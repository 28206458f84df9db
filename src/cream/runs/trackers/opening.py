"""From the trackers that a recipe names to objects that take metrics."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

from cream.errors import DependencyError
from cream.protocols import Tracker
from cream.recipe.trackers import (
    MlflowConfig,
    TensorBoardConfig,
    TrackerConfig,
    TrackioConfig,
    WandbConfig,
)
from cream.runs.trackers.ledger import Ledger
from cream.runs.trackers.mlflow import MlflowTracker
from cream.runs.trackers.sending import Sender, Trackers, Warn
from cream.runs.trackers.tensorboard import TensorBoardTracker
from cream.runs.trackers.trackio import TrackioTracker
from cream.runs.trackers.wandb import WandbTracker

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


def open_trackers(trackers: Sequence[TrackerConfig], run: TrackedRun, warn: Warn) -> Trackers:
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
    return Trackers(senders, warn)


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
