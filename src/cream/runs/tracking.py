"""Metrics as JSON lines: one object per step, appended, readable while the run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import final

from cream.runs.files import replacing_file


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

    def rewind(self, step: int) -> None:
        """Forget lines of `step` and later, written by an attempt that was interrupted."""
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step_of(line) < step]
            with replacing_file(self.path) as temporary:
                temporary.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except json.JSONDecodeError:  # the last line of a killed process may be cut
        return math.inf
