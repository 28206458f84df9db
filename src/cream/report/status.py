"""Which stages of a run are finished, begun or missing."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cream.records import Count, Record
from cream.report.summary import RunSummary, summarise_run
from cream.runs.files import read_json
from cream.runs.plan import read_plan
from cream.runs.store import BEGUN, DONE


class StageStatus(Record):
    """How far a stage of a run is."""

    stage: str
    state: Literal["finished", "begun", "missing"]
    seconds: float | None
    """Null unless finished."""
    parts: Count
    """Whole parts on disk."""


class RunStatus(Record):
    """Stages of a run, and its results so far."""

    stages: list[StageStatus]
    summary: RunSummary


def status_of(root: Path) -> RunStatus:
    """Stages and results of a run.

    Raises:
        RunError: `root` holds no run.
    """
    return RunStatus(stages=run_status(root), summary=summarise_run(root))


def run_status(root: Path) -> list[StageStatus]:
    """One entry per stage of the run's plan, in running order.

    Raises:
        RunError: `root` holds no run.
    """
    return [_stage(root, spec.name) for spec in read_plan(root).stages]


def _stage(root: Path, name: str) -> StageStatus:
    folder = root / name
    done = (folder / DONE).exists()
    return StageStatus(
        stage=name,
        state="finished" if done else "begun" if (folder / BEGUN).exists() else "missing",
        seconds=read_json(folder / DONE)["seconds"] if done else None,
        parts=len(list(folder.glob("part-*.parquet"))),
    )
