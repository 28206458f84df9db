"""What a page tells about one run: its summary, and how far two rankings agreed per prompt.

Everything is optional beyond the recipe, since a page of an unfinished run is useful too. Texts of
completions are not read here; see `entries`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64

from cream.records import SampleSummary
from cream.report.summary import IterationSummary, RunSummary, summary_of
from cream.runs.reader import PROMPTS, RunReader


@dataclass(frozen=True)
class Correlations:
    """How far two rankings agreed, over the prompts of one iteration."""

    values: Float64[np.ndarray, " prompt"]
    """The statistic where it is defined: tau in [-1, 1], or a rate in [0, 1]."""
    undefined: Mapping[str, int]
    """Prompts without it, by reason."""
    statistic: str
    """``kendall``, ...; ``top_order`` is a rate already."""

    @property
    def rates(self) -> Float64[np.ndarray, " prompt"]:
        """C_j of the same prompts."""
        return rate_of(self.values, self.statistic)


def rate_of(values: Float64[np.ndarray, ...], statistic: str) -> Float64[np.ndarray, ...]:
    """The consistency rate that belongs to a statistic's value; NaN stays NaN."""
    return values if statistic == "top_order" else (values + 1) / 2


@dataclass(frozen=True)
class RunRecords:
    """One run as a page needs it."""

    run: RunReader
    summary: RunSummary
    correlations: Mapping[int, Correlations]
    """Per iteration; none if nothing was compared."""

    @property
    def iterations(self) -> Sequence[IterationSummary]:
        """Summaries of the iterations that have pairs."""
        return self.summary.iterations

    def sampled(self, t: int) -> SampleSummary | None:
        """What M_t sampled in iteration t, if that is finished."""
        stage = self.run.sole("sample", t)
        return None if stage is None else stage.summary(SampleSummary)


def read_run(root: Path) -> RunRecords:
    """Read a run directory.

    Raises:
        RunError: `root` holds no run, or a file of it is damaged.
    """
    run = RunReader(root)
    correlations = {t: _correlations(run, t) for t in run.pairings}
    return RunRecords(
        run, summary_of(run), {t: found for t, found in correlations.items() if found is not None}
    )


def _correlations(run: RunReader, t: int) -> Correlations | None:
    agreement = run.compared(t)
    if agreement is None:
        return None
    table = run.pairings[t].file(PROMPTS, ("correlation", "definedness"))
    reasons = table["definedness"].to_pylist()
    defined = np.asarray([reason == "defined" for reason in reasons], dtype=bool)
    values = table["correlation"].to_numpy().astype(np.float64)
    return Correlations(
        values[defined],
        Counter(reason for reason in reasons if reason != "defined"),
        agreement.statistic,
    )
