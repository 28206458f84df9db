"""The whole recipe, run once in a child process: seconds per stage, from its run directory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from cream.errors import BenchmarkError
from cream.runs.files import read_json
from cream.runs.store import DONE

RUN = "from cream.cli import main; main()"
TOTAL = "whole run"


def run_whole(recipe: Path, cache_dir: Path, *, threads: int) -> list[dict[str, Any]]:
    """Run a recipe in a new folder, which is deleted, and return seconds per stage and in all.

    Raises:
        BenchmarkError: The run failed.
    """
    with tempfile.TemporaryDirectory(prefix="cream-bench-") as name:
        root = Path(name) / "run"
        command = [sys.executable, "-c", RUN, "run", str(recipe), "--quiet"]
        environment = {"CREAM_CACHE": str(cache_dir), "OMP_NUM_THREADS": str(threads)}
        started = time.monotonic()
        done = subprocess.run(  # noqa: S603 - this very program
            [*command, "--set", f"run_dir={root}"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - started
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise BenchmarkError(f"the whole run of {recipe} failed: {reason}")
        return [*stage_seconds(root), {"stage": TOTAL, "seconds": seconds}]


def stage_seconds(run: Path) -> list[dict[str, Any]]:
    """Seconds of every finished stage of a run directory, by its folder."""
    records = sorted(run.rglob(DONE), key=lambda path: path.stat().st_mtime)
    return [
        {
            "stage": str(path.parent.relative_to(run)),
            "seconds": float(read_json(path)["seconds"]),
        }
        for path in records
    ]
