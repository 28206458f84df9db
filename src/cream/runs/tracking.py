"""Metrics as JSON lines: one object per step, appended, readable while the run goes on."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import final


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
