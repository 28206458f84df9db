"""How the stages of a run stand: made, under way, not begun, or no longer what was written.

`stage_state` takes the cheap look that a listing can afford; `verify_run` reads everything.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from cream.errors import RunError
from cream.records import Record
from cream.runs.files import read_sealed
from cream.runs.plan import PLAN, read_plan
from cream.runs.store import BEGUN, DONE, MODELS, Run

State = Literal["finished", "damaged", "begun", "missing"]
"""``damaged``: it was finished, and a file of it or of its model is gone or has changed since."""


class StageState(Record):
    """A stage as it stands in its run directory."""

    stage: str
    state: State
    seconds: float | None
    """What it took; None unless finished."""
    parts: int
    """Whole parts on disk."""
    bytes: int | None
    """Size of what it wrote, its model included; None unless finished."""
    problems: tuple[str, ...] = ()
    """What is wrong with it, a sentence per file."""


class Verification(Record):
    """A run whose every file was read and compared with what its stages recorded."""

    run: str
    whole: bool
    """Whether no stage is damaged. Stages that are not made yet are no damage."""
    stages: tuple[StageState, ...]


def stage_state(root: Path, name: str, *, full: bool = False) -> StageState:
    """How a stage of a run stands.

    Args:
        root: Run directory.
        name: The stage.
        full: Read all content; otherwise only that of files whose time of change is another than
            the recorded one, as it is after a copy that did not keep it.
    """
    folder = root / name
    parts = len(list(folder.glob("part-*.parquet")))
    if not (folder / DONE).exists():
        state: State = "begun" if (folder / BEGUN).exists() else "missing"
        return StageState(stage=name, state=state, seconds=None, parts=parts, bytes=None)
    try:
        stage = Run(root).recorded(name)
        problems = tuple(map(str, stage.damages(full=full)))
        size, seconds = stage.bytes(), float(read_sealed(folder / DONE)["seconds"])
    except RunError as error:
        return StageState(
            stage=name,
            state="damaged",
            seconds=None,
            parts=parts,
            bytes=None,
            problems=(str(error),),
        )
    return StageState(
        stage=name,
        state="damaged" if problems else "finished",
        seconds=seconds,
        parts=parts,
        bytes=size,
        problems=problems,
    )


def verify_run(root: Path) -> Verification:
    """Read every file of every finished stage, models included, and compare.

    Raises:
        RunError: `root` holds no run.
    """
    stages = tuple(stage_state(root, spec.name, full=True) for spec in read_plan(root).stages)
    whole = all(stage.state != "damaged" for stage in stages)
    return Verification(run=str(root), whole=whole, stages=stages)


def refuse_damaged_model(folder: Path) -> None:
    """Check a model folder that may be of a run; one that is of no run has no record to fit.

    Raises:
        RunError: A stage of the run wrote it, and it is not what was written.
    """
    root = folder.parent.parent
    if folder != root / MODELS / folder.name or not (root / PLAN).is_file():
        return
    for spec in read_plan(root).stages:
        if spec.result == folder.name and (root / spec.name / DONE).exists():
            Run(root).recorded(spec.name).check_model()
