"""What a page tells about one run, read from its folder: summary, curves, tau per prompt, tokens.

Everything is optional beyond the recipe, since a page of an unfinished run is useful too. Texts of
completions are not read here; see `entries`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float64

from cream.errors import RunError
from cream.records import SampleSummary
from cream.report.summary import IterationSummary, RunSummary, model_folders, summarise_run
from cream.runs.files import read_json, read_table, read_yaml
from cream.runs.store import DONE, RECIPE

Curve = Sequence[Mapping[str, Any]]
"""Lines of a ``metrics.jsonl``."""


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

    root: Path
    summary: RunSummary
    recipe: Mapping[str, Any]
    """The resolved recipe as stored."""
    manifest: Mapping[str, Any] | None
    stages: Mapping[str, Mapping[str, Any]]
    """``stage.json`` of each finished stage, by name."""
    curves: Mapping[str, Curve]
    """Metrics of each training, by the name of its stage."""
    correlations: Mapping[int, Correlations]
    """Per iteration; none if nothing was compared."""
    answer_tokens: Mapping[str, int]
    """Completion tokens of the answers to test prompts, per stage."""

    @property
    def iterations(self) -> Sequence[IterationSummary]:
        """Summaries of the iterations that have pairs."""
        return self.summary.iterations

    def finished(self, stage: str) -> Mapping[str, Any] | None:
        """Summary of a stage, or None if it is not finished."""
        record = self.stages.get(stage)
        return None if record is None else record["summary"]

    def sampled(self, t: int) -> SampleSummary | None:
        """What iteration t sampled, if that is finished."""
        found = self.finished(f"iteration-{t}/sample")
        return None if found is None else SampleSummary.read(found, self.root)


def read_run(root: Path) -> RunRecords:
    """Read a run directory.

    Raises:
        RunError: `root` holds no run, or a file of it is damaged.
    """
    summary = summarise_run(root)
    stages = {name: read_json(root / name / DONE) for name in summary.seconds}
    manifest = root / "manifest.json"
    answered = [name for name in stages if name.endswith("/evaluate")]
    return RunRecords(
        root=root,
        summary=summary,
        recipe=read_yaml(root / RECIPE),
        manifest=read_json(manifest) if manifest.exists() else None,
        stages=stages,
        curves={
            name: _curve(root / name / "metrics.jsonl")
            for name in stages
            if (root / name / "metrics.jsonl").exists()
        },
        correlations={
            t: found
            for t in range(1, summary.iterations_planned + 1)
            if (found := _correlations(root, stages.get(f"iteration-{t}/pair"), t)) is not None
        },
        answer_tokens={name: _answer_tokens(root / name) for name in answered},
    )


def evaluation_folders(records: RunRecords) -> dict[str, Path]:
    """Folder of the answers of each evaluated model, M0 first."""
    folders = model_folders(records.summary.iterations_planned)
    return {
        f"M{m}": records.root / folder / "evaluate"
        for m, folder in enumerate(folders)
        if f"{folder}/evaluate" in records.stages
    }


def compared(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The agreement that a pair stage measured, as its ``stage.json`` states it, or None."""
    inputs = record["inputs"]
    parts = inputs.get("parts", {})
    reported = parts.get("reported") if inputs.get("report_consistency") else None
    return parts.get("agreement") or reported


def _answer_tokens(folder: Path) -> int:
    paths = sorted(folder.glob("part-*.parquet"))
    return sum(
        int(read_table(path, ["num_tokens"])["num_tokens"].to_numpy().sum()) for path in paths
    )


def _curve(path: Path) -> Curve:
    lines = path.read_text(encoding="utf-8").splitlines()
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise RunError(f"{path} is not JSON lines ({error}); it was changed by hand") from error


def _correlations(root: Path, record: Mapping[str, Any] | None, t: int) -> Correlations | None:
    agreement = None if record is None else compared(record)
    if agreement is None:
        return None
    path = root / f"iteration-{t}" / "pair" / "prompts.parquet"
    table: pa.Table = read_table(path, ["correlation", "definedness"])
    reasons = table["definedness"].to_pylist()
    defined = np.asarray([reason == "defined" for reason in reasons], dtype=bool)
    values = table["correlation"].to_numpy().astype(np.float64)
    return Correlations(
        values[defined],
        Counter(reason for reason in reasons if reason != "defined"),
        agreement["statistic"],
    )
