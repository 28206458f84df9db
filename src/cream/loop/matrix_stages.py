"""The score matrix of an iteration, and the pairs that are made of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from cream.loop.context import Context
from cream.loop.pairing import calibration_of, make_pairs, outcome_in_words, read_matrix
from cream.loop.score_columns import score_column
from cream.loop.stage_runner import run_shards, run_step
from cream.pair_records import PairSummary
from cream.records import MatrixSummary, StageSpec
from cream.runs.files import read_table
from cream.runs.store import Stage, StageRecord
from cream.runs.tables import (
    LOGP_PREFIX,
    NUM_TOKENS,
    interleave,
    join_by_id,
    read_metadata,
    with_metadata,
)

NO_PAIRS = {
    "objective",
    "prompts",
    "transform",
    "goals",
    "sampled_goal",
    "advantage",
    "editing",
    "tokens",
    "asked",
    "learner",
    "along",
}
"""Parts that decide no pair."""


@dataclass(frozen=True)
class _ScoredSet:
    """The finished stages of a sample set that a score matrix joins."""

    sampled: Stage
    columns: Mapping[str, Stage]
    """Per model."""
    scores: Mapping[str, Stage]
    """Per score column."""

    @property
    def fingerprints(self) -> dict[str, Any]:
        return {
            "completions": self.sampled.fingerprint,
            "columns": {name: column.fingerprint for name, column in self.columns.items()},
            **{name: other.fingerprint for name, other in self.scores.items()},
        }

    def part(self, index: int, taken: Mapping[str, Sequence[str]]) -> pa.Table:
        """Completions of a part with their columns, joined by id."""
        table = read_table(self.sampled.part(index))
        for place, (name, column) in enumerate(self.columns.items()):
            names = [LOGP_PREFIX + name] if place else [NUM_TOKENS, LOGP_PREFIX + name]
            table = join_by_id(table, read_table(column.part(index)), names)
        for name, other in self.scores.items():
            table = join_by_id(table, read_table(other.part(index)), taken[name])
        return table


def matrix_stage(context: Context, spec: StageSpec) -> StageRecord:
    """The score matrix: completions of all sets that it reads, with their columns."""
    read = [context.run.finished(name) for name in spec.inputs]
    joined = [_scored_set(one, read) for one in read if one.spec.kind in ("sample", "edit")]
    first, *rest = joined
    others = {str(other.sampled.spec.origin): other.fingerprints for other in rest}
    stage = context.stage(spec, {**first.fingerprints, **({"others": others} if others else {})})
    taken = {name: score_column(context, name).columns for name in first.scores}

    def work(shard: Sequence[Any]) -> pa.Table:
        (index,) = shard
        table = interleave([one.part(index, taken) for one in joined])
        noise = {
            name: read_metadata(read_table(column.part(0), ["completion_id"]))["noise"]
            for name, column in first.columns.items()
        }
        return with_metadata(table, {"noise": noise})

    return run_shards(
        stage,
        context.progress,
        label=spec.label,
        unit="shards",
        shards=[[index] for index in range(len(first.sampled.parts()))],
        work=work,
        summarise=lambda stage: (
            MatrixSummary(columns=list(first.columns)).as_json(),
            ", ".join(first.columns),
        ),
    )


def _scored_set(sampled: Stage, read: Sequence[Stage]) -> _ScoredSet:
    """A set of completions with those of the stages read that scored it."""
    scored = [one.spec for one in read if one.spec.inputs[:1] == (sampled.spec.name,)]
    by_name = {one.spec.name: one for one in read}
    return _ScoredSet(
        sampled,
        {str(spec.model): by_name[spec.name] for spec in scored if spec.kind == "score"},
        {str(spec.column): by_name[spec.name] for spec in scored if spec.kind != "score"},
    )


def _live(summary: PairSummary) -> dict[str, float]:
    return {"consistency/rate": summary.consistency.rate} if summary.consistency else {}


def pair_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Pairs of an iteration or its draft, from its score matrix."""
    matrix_name, *calibrations = spec.inputs
    matrix_stage = context.run.finished(matrix_name)
    t, parts = spec.t, context.plan.phase_parts(spec)
    # Left out where it is None, so that runs made before it existed keep their fingerprints.
    optional = {"others": parts.others, "answered": parts.answered}
    names = NO_PAIRS | {name for name, part in optional.items() if part is None}
    without: dict[str, Any] = dict.fromkeys(names, True)
    if parts.paired_by.unanimous == "drop":
        without["pairing"] = {"unanimous"}
    calibration = None
    if calibrations:
        calibration = calibration_of(context.run.finished(calibrations[0]), context.plan.parts(1))
    counts = {} if calibration is None else {"calibration": asdict(calibration)}
    report = context.recipe.scoring.report_consistency
    stage = context.stage(
        spec,
        {
            "matrix": matrix_stage.fingerprint,
            "parts": parts.model_dump(mode="json", exclude=without),
            "report_consistency": report,
            **counts,
        },
    )

    def work() -> tuple[dict[str, Any], str, dict[str, float]]:
        matrix = read_matrix(matrix_stage, parts, t, report_consistency=report)
        summary = make_pairs(
            stage.folder,
            matrix,
            parts,
            t,
            seed=context.recipe.seed,
            report_consistency=report,
            calibration=calibration,
        )
        return summary.as_json(), outcome_in_words(summary), _live(summary)

    return run_step(stage, context.progress, work)
