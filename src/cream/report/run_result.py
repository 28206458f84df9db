"""A run directory as an object: what `cream.run` returns and `cream.open_run` opens.

It reads stored records when asked and holds none; nothing here runs a model.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cream.report.summary import RunSummary, summarise_run
from cream.runs.reader import PAIRS, RunReader


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left, finished or not."""

    root: Path
    """The run directory."""

    @property
    def summary(self) -> RunSummary:
        """Results of every model and iteration so far; also ``summary.json``.

        Raises:
            RunError: `root` holds no run.
        """
        return summarise_run(self.root)

    @property
    def models(self) -> dict[str, Path]:
        """Folders of the trained models that are kept, by name: ``M1``, ``M2``, ..."""
        return {path.name: path for path in sorted((self.root / "models").glob("*"))}

    def accuracy(self, model: str) -> float | None:
        """Share of test prompts whose greedy answer is correct; None if `model` has no results."""
        found = [row.overall for row in self.summary.models if row.model == model]
        return found[0].right / found[0].n if found else None

    def matrix(self, t: int) -> pa.Table:
        """Score matrix of iteration t: a row per completion, a column per score.

        Raises:
            RunError: It is not finished.
        """
        return RunReader(self.root).needed("matrix", t).table()

    def pairs(self, t: int) -> pa.Table:
        """Preference pairs of iteration t, by completion id.

        Raises:
            RunError: They are not finished.
        """
        return RunReader(self.root).needed("pair", t).file(PAIRS)


def open_run(folder: str | Path) -> RunResult:
    """Open a run directory.

    Raises:
        RunError: It holds no run.
    """
    return RunResult(RunReader(Path(folder)).root)
