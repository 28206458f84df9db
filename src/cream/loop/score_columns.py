"""Stages that fill the score columns beside the log-probabilities: verifier, judge, reward model.

`SCORE_COLUMNS` is the one place where the name of a column leads to what makes its stage and to
what the score matrix takes from it. What is needed follows from the parts of the method.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa

from cream.errors import RecipeError
from cream.loop.context import Context
from cream.loop.stage_runner import run_shards
from cream.loop.text_scorers import judge_stage, own_scorer_stage, reward_model_stage
from cream.recipe.parts import EXTRACTED, FROM_DATA, JUDGE, REWARD_MODEL, VERIFIER
from cream.records import StageSpec
from cream.runs.files import read_table
from cream.runs.store import Stage, StageRecord
from cream.runs.tables import completions_from_table
from cream.stages.score import verify
from cream.types import Origin

VERDICT_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("completion_id", pa.string()),
        (VERIFIER, pa.float64()),
        ("partial_credit", pa.float64()),
        (EXTRACTED, pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class ScoreColumn:
    """How a score column is made."""

    make: Callable[[Context, StageSpec], StageRecord]
    """Makes the stage that fills it for a set of completions."""
    columns: tuple[str, ...]
    """What the score matrix takes from it: the scores, and why they are missing."""


def score_column_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Fill a score column for a set of completions."""
    return score_column(context, str(spec.column)).make(context, spec)


def score_column(context: Context, name: str) -> ScoreColumn:
    """How a column is made: one of Cream's, or that of a scorer of the user's."""
    scorer = context.extensions.scorers.get(name)
    if scorer is None:
        return SCORE_COLUMNS[name]
    return ScoreColumn(partial(own_scorer_stage, scorer), (name, f"{name}_reason"))


def check_score_columns(context: Context) -> None:
    """A column that the run cannot fill is refused now, not after sampling.

    Raises:
        RecipeError: The method reads a score column that does not exist, or that needs a section
            which this method does not have.
    """
    method = context.recipe.method
    fillable = {VERIFIER}
    fillable |= {method.scorer.column} if method.scorer else set()
    fillable |= context.extensions.scorers.keys()
    fillable |= {FROM_DATA} if context.plan.parts(1).prompts == "seed" else set()
    for t in range(1, context.recipe.iterations + 1):
        wrong = [name for name in context.plan.parts(t).score_columns if name not in fillable]
        if wrong:
            raise RecipeError(
                f"method {method.name} reads the score column {', '.join(wrong)} at iteration {t}, "
                f"which this run cannot fill; it has {', '.join(sorted(fillable))}. `judge` comes "
                "with methods srlm_judge and temporal, `reward_model` with reward_model and "
                "temporal, any other with cream.run(..., scorers=...)"
            )


def verify_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Verdicts on a set's completions, where prompts have answers; the same in every iteration.

    Read by the `oracle` method and by reports; no other method may.
    """
    (source,) = spec.inputs
    sampled, asked = context.run.finished(source), context.plan.sets[source].prompts
    stage = context.stage(
        spec,
        {
            "completions": sampled.fingerprint,
            "prompts": context.prompts_fingerprint(asked),
            **context.verified_by(asked),
        },
    )
    prompts = {p.prompt_id: p for p in asked}

    def work(shard: Sequence[Any]) -> pa.Table:
        (path,) = shard
        completions = completions_from_table(read_table(path))
        rows = verify(completions, prompts, context.verifier)
        return pa.Table.from_pylist(
            [
                {
                    "prompt_id": row.prompt_id,
                    "completion_id": row.completion_id,
                    VERIFIER: row.correct,
                    "partial_credit": row.partial_credit,
                    EXTRACTED: row.extracted,
                }
                for row in rows
            ],
            schema=VERDICT_SCHEMA,
        )

    return run_shards(
        stage,
        context.progress,
        label=spec.label,
        unit="shards",
        shards=[[path] for path in sampled.parts()],
        work=work,
        summarise=_summarise_verdicts,
    )


def from_data_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Which of a set's completions a data set holds (1) and which M_t sampled (0)."""
    sampled = context.run.finished(spec.inputs[0])
    stage = context.stage(spec, {"completions": sampled.fingerprint})

    def work(shard: Sequence[Any]) -> pa.Table:
        (path,) = shard
        table = read_table(path, ["prompt_id", "completion_id", "origin"])
        marks = [float(origin != Origin.POLICY) for origin in table["origin"].to_pylist()]
        return table.drop_columns("origin").append_column(FROM_DATA, pa.array(marks, pa.float64()))

    def summarise(stage: Stage) -> tuple[dict[str, Any], str]:
        found = sum(sum(table[FROM_DATA].to_pylist()) for table in stage.tables([FROM_DATA]))
        return {"data_completions": int(found)}, f"{int(found)} completions of the data"

    return run_shards(
        stage,
        context.progress,
        label=spec.label,
        unit="shards",
        shards=[[path] for path in sampled.parts()],
        work=work,
        summarise=summarise,
    )


def _summarise_verdicts(stage: Stage) -> tuple[dict[str, Any], str]:
    table = pa.concat_tables(stage.tables([VERIFIER, EXTRACTED]))
    verified = table.num_rows - table[VERIFIER].null_count
    right = table[VERIFIER].to_pylist().count(1.0)
    summary = {
        "verified": verified,
        "right": right,
        "unverifiable": table[VERIFIER].null_count,
        "unparsed": verified - (table.num_rows - table[EXTRACTED].null_count),
    }
    return summary, f"{right} of {verified} right" if verified else "no reference answers"


SCORE_COLUMNS: Mapping[str, ScoreColumn] = {
    VERIFIER: ScoreColumn(verify_stage, (VERIFIER, "partial_credit", EXTRACTED)),
    FROM_DATA: ScoreColumn(from_data_stage, (FROM_DATA,)),
    JUDGE: ScoreColumn(judge_stage, (JUDGE, f"{JUDGE}_reason", f"{JUDGE}_count")),
    REWARD_MODEL: ScoreColumn(reward_model_stage, (REWARD_MODEL, f"{REWARD_MODEL}_reason")),
}
