"""What the samples were worth in the iterations of a method that makes no pairs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from cream.records import AdvantageSummary
from cream.runs.reader import RunReader


class WeighedIteration(AdvantageSummary):
    """Samples of an iteration of a run whose method makes no pairs."""

    iteration: Annotated[int, Field(ge=1)]


def weighed_iterations(run: RunReader) -> list[WeighedIteration]:
    """Those that are finished."""
    return [
        WeighedIteration(iteration=t, **dict(stage.summary(AdvantageSummary)))
        for t, stage in run.weighings.items()
    ]
