"""Which stages of a run are finished, damaged, begun or missing, and its results so far."""

from __future__ import annotations

from pathlib import Path

from cream.records import Record
from cream.report.summary import RunSummary, summarise_run
from cream.runs.plan import read_plan
from cream.runs.verification import StageState, stage_state


class RunStatus(Record):
    """Stages of a run, and its results so far."""

    stages: list[StageState]
    summary: RunSummary


def status_of(root: Path) -> RunStatus:
    """Stages and results of a run.

    Raises:
        RunError: `root` holds no run.
    """
    return RunStatus(stages=run_status(root), summary=summarise_run(root))


def run_status(root: Path) -> list[StageState]:
    """One entry per stage of the run's plan, in running order; files get the cheap look.

    Raises:
        RunError: `root` holds no run.
    """
    return [stage_state(root, spec.name) for spec in read_plan(root).stages]
