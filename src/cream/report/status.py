"""Which stages of a run are finished, begun or missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cream.runs.files import read_json
from cream.runs.plan import read_plan
from cream.runs.store import BEGUN, DONE


def run_status(root: Path) -> list[dict[str, Any]]:
    """One entry per stage of the run's plan, in running order.

    Returns:
        ``stage``, ``state`` (``finished``, ``begun``, ``missing``), ``seconds`` (None unless
        finished) and ``parts`` (whole parts on disk).

    Raises:
        RunError: `root` holds no run.
    """
    return [_stage(root, spec.name) for spec in read_plan(root).stages]


def _stage(root: Path, name: str) -> dict[str, Any]:
    folder = root / name
    done = (folder / DONE).exists()
    return {
        "stage": name,
        "state": "finished" if done else "begun" if (folder / BEGUN).exists() else "missing",
        "seconds": read_json(folder / DONE)["seconds"] if done else None,
        "parts": len(list(folder.glob("part-*.parquet"))),
    }
