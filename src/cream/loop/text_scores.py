"""A score column that a reader of text fills: its table, its stage, its summary."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from cream.engines.texts import TextScorer
from cream.engines.verdict import DETAILS
from cream.loop.context import Context
from cream.loop.stage_runner import run_parts
from cream.recipe.columns import VERDICT
from cream.records import StageSpec, TextScoreSummary
from cream.runs.files import read_table
from cream.runs.store import Stage, StageRecord
from cream.runs.tables import completions_from_table
from cream.stages.score import ScoreRow, score_texts, tally_scores
from cream.types import counts

VERDICT_DETAILS = tuple(f"{VERDICT}_{name}" for name in DETAILS)


def text_schema(column: str, **further: pa.DataType) -> pa.Schema:
    """Of a column that a reader of text fills: values, why they are missing, and what follows."""
    ids = [("prompt_id", pa.string()), ("completion_id", pa.string())]
    values = [(column, pa.float64()), (f"{column}_reason", pa.string())]
    return pa.schema([*ids, *values, *further.items()])


def _text_table(rows: Sequence[ScoreRow], column: str, schema: pa.Schema) -> pa.Table:
    told = [
        {
            "prompt_id": row.prompt_id,
            "completion_id": row.completion_id,
            column: row.value,
            f"{column}_reason": row.reason,
            f"{column}_count": row.count,
            **{
                name if name in schema.names else f"{column}_{name}": value
                for name, value in row.details.items()
            },
        }
        for row in rows
    ]
    return pa.Table.from_pylist(told, schema=schema)


def score_texts_stage(
    context: Context,
    spec: StageSpec,
    inputs: dict[str, Any],
    make_scorer: Callable[[], TextScorer],
    schema: pa.Schema,
    crewed: bool = False,
) -> StageRecord:
    """Fill one column; the scorer, which asks the crew if `crewed`, is made when it is needed."""
    (source,), column = spec.inputs, str(spec.column)
    sampled = context.run.finished(source)
    prompts = {p.prompt_id: p for p in context.plan.sets[source].prompts}
    stage = context.stage(spec, {"completions": sampled.fingerprint, **inputs})
    scorer = cache(make_scorer)

    def work(path: Path) -> pa.Table:
        completions = completions_from_table(read_table(path))
        return _text_table(score_texts(completions, prompts, scorer()), column, schema)

    return run_parts(
        stage,
        context.progress,
        sampled,
        work,
        partial(_summarise, column=column),
        crew=context.crew if crewed else None,
    )


def _summarise(stage: Stage, column: str) -> tuple[dict[str, Any], str]:
    reason, details = f"{column}_reason", VERDICT_DETAILS if column == VERDICT else ()
    table = pa.concat_tables(stage.tables([column, reason, *details]))
    tally = tally_scores(table[reason].to_pylist())
    values = [value for value in table[column].to_pylist() if value is not None]
    mean = sum(values) / len(values) if values else None
    told = {name: [v for v in table[name].to_pylist() if v is not None] for name in details}
    summary = TextScoreSummary(
        tally=tally,
        mean_score=mean,
        distinct_scores=len(set(values)),
        details={name: sum(found) / len(found) for name, found in told.items() if found},
    )
    words = counts(tally.parts)
    average = "" if mean is None else f", mean {mean:.2f}"
    return summary.as_json(), f"{words} of {tally.total}{average}"
