"""What a user should know about the stages of a run, each by a name that does not change."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from cream.algorithms.diagnostics import Sampled, course_warnings, drift_warnings
from cream.records import AdvantageSummary, Record, SampleSummary
from cream.runs.reader import RunReader
from cream.types import Origin


class RunWarning(Record):
    """Something about a stage that a user should know, by a name that does not change."""

    name: Literal[
        "loss_spike",
        "margin_explosion",
        "collapse_of_diversity",
        "runaway_length",
        "off_policy",
        "entropy_collapse",
        "vote_collapse",
        "shrunken_length",
    ]
    stage: str
    text: str
    """A sentence."""


def warnings_of(run: RunReader) -> list[RunWarning]:
    """Those of its finished stages, in running order."""
    return [
        RunWarning.model_validate({"name": name, "stage": stage, "text": text})
        for stage, found in _warnings(run)
        for name, text in found.items()
    ]


def _warnings(run: RunReader) -> Iterator[tuple[str, dict[str, str]]]:
    first: dict[tuple[str, ...], Sampled] = {}
    for name, stage in run.finished.items():
        if stage.spec.kind in ("fine_tune", "train"):
            yield name, course_warnings(stage.curve)
        if stage.spec.kind == "advantage":
            yield name, stage.summary(AdvantageSummary).warnings
        if stage.spec.kind == "sample" and stage.spec.origin == Origin.POLICY and stage.figures:
            found = stage.summary(SampleSummary)
            if not found.completions:
                continue
            now = Sampled(
                found.distinct / found.completions,
                found.tokens / found.completions,
                found.truncated / found.completions,
            )
            yield name, drift_warnings(first.setdefault(stage.spec.branch, now), now)
