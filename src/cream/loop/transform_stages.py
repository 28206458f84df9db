"""Stages between pairs and training: a transform's examples, and their second scoring pass."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from cream.engines.texts import special_texts
from cream.errors import RunError
from cream.loop.context import Context
from cream.loop.extensions import OwnTransform
from cream.loop.stage_runner import batched, run_parts, run_step
from cream.protocols import Addition
from cream.records import StageSpec
from cream.report.summary import OptionSummary, TransformSummary
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage, StageRecord, fingerprint
from cream.runs.tables import (
    LOGP_PREFIX,
    completions_from_table,
    examples_from_table,
    examples_to_table,
    pairs_from_table,
)
from cream.stages.additions import addition_of, extend_pairs
from cream.stages.goals import GoalRows
from cream.stages.transform import (
    TRANSFORMED,
    ReferenceRow,
    ranked_pairs,
    score_examples,
    transform_pairs,
    unscored,
    with_references,
)
from cream.types import Example, RankedPair, Tally, counts

REFERENCE_SCHEMA = pa.schema(
    [("example_id", pa.string()), ("role", pa.string()), ("reference_logps", pa.float64())]
)


def transform_stage(context: Context, spec: StageSpec) -> StageRecord:
    """The examples that the method's transform, or options of its objective, make of the pairs."""
    own = _transform(context, spec)
    additions = () if own else _additions(context, spec)
    made_by = own.fingerprint if own else fingerprint([a.fingerprint for a in additions])
    paired, matrix = map(context.run.finished, spec.inputs)
    stage = context.stage(
        spec,
        {
            "pairs": paired.fingerprint,
            "reference": spec.reference,
            "transform": made_by,
            "template": context.template_fingerprint,
        },
    )

    def work() -> tuple[dict[str, Any], str, None]:
        pairs = _pairs(context, spec, paired, matrix)
        if own:
            examples, tally = transform_pairs(pairs, own, context.encoder)
            options = dict[str, OptionSummary]()
        else:
            extended = extend_pairs(pairs, additions, context.encoder)
            examples, tally = extended.examples, Tally(len(pairs), {TRANSFORMED: len(pairs)})
            options = {
                name: OptionSummary(tally=tally, figures=dict(extended.figures[name]))
                for name, tally in extended.tallies.items()
            }
        if not examples:
            reasons = counts(tally.parts)
            raise RunError(
                f"{spec.label}: {spec.column or 'goals'} left nothing to train on ({reasons})"
            )
        parts = batched(examples, context.recipe.sampling.prompts_per_shard)
        for index, part in enumerate(parts):
            stage.write_part(index, examples_to_table(part), 0.0)
        summary = TransformSummary(
            examples=len(examples),
            sequences=sum(len(example.sequences) for example in examples),
            unscored=len(unscored(examples)),
            tally=tally,
            options=options,
        )
        return summary.as_json(), f"{len(examples)} examples of {tally.total} pairs", None

    return run_step(stage, context.progress, work)


def _transform(context: Context, spec: StageSpec) -> OwnTransform | None:
    """What makes the examples, the user's object or goals; None: options add to the pairs."""
    goals = context.plan.phase_parts(spec).goals
    if goals is None:
        return None if spec.column is None else context.extensions.transforms[spec.column]
    limit = context.recipe.training.max_length
    return GoalRows(
        goals,
        seed=derive_seed(context.recipe.seed, "goals", spec.t),
        max_tokens=min(limit, context.checkpoints.context_length or limit),
    )


def _additions(context: Context, spec: StageSpec) -> tuple[Addition, ...]:
    """What makes the sequences that options of the objective add."""
    parts, special = context.plan.phase_parts(spec), special_texts(context.encoder.tokenizer)
    return tuple(
        addition_of(
            section,
            seed=derive_seed(context.recipe.seed, section.key, spec.t, *spec.branch),
            special=special,
            policy=parts.model_at(spec.t),
        )
        for section in parts.objective.additions
    )


def _pairs(context: Context, spec: StageSpec, paired: Stage, matrix: Stage) -> list[RankedPair]:
    table = pa.concat_tables(matrix.tables())
    sampled = matrix.spec.inputs[0]
    sums = table[LOGP_PREFIX + str(spec.reference)].to_pylist()
    known = [n for n in table.column_names if pa.types.is_floating(table.schema.field(n).type)]
    rows = table.select(["completion_id", *known]).to_pylist()
    columns = {
        row["completion_id"]: {n: row[n] for n in known if row[n] is not None and row[n] == row[n]}
        for row in rows
    }
    return ranked_pairs(
        pairs_from_table(read_table(paired.folder / "pairs.parquet")),
        completions_from_table(table),
        dict(zip(table["completion_id"].to_pylist(), sums, strict=True)),
        {prompt.prompt_id: prompt for prompt in context.plan.sets[sampled].prompts},
        context.encode_set(sampled),
        columns,
    )


def score_examples_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Sums of the sequences that the transform left unscored, under the loss reference."""
    (source,), model = spec.inputs, str(spec.model)
    transformed, budget = context.run.finished(source), context.recipe.scoring.token_budget
    stage = context.stage(
        spec,
        {
            "examples": transformed.fingerprint,
            "model": context.model_fingerprint(model),
            "compute_dtype": str(context.checkpoints.compute_dtype),
            "settings": {"token_budget": budget},
        },
    )

    def work(path: Path) -> pa.Table:
        examples = examples_from_table(read_table(path))
        rows: list[ReferenceRow] = []
        if unscored(examples):
            rows = score_examples(examples, context.engine.scorer(model))
        return pa.Table.from_pylist([asdict(row) for row in rows], schema=REFERENCE_SCHEMA)

    def summarise(stage: Stage) -> tuple[dict[str, Any], str]:
        scored = sum(table.num_rows for table in stage.tables(["role"]))
        return {"scored": scored}, f"{scored} sequences"

    return run_parts(stage, context.progress, transformed, work, summarise, crew=context.crew)


def transformed_examples(transformed: Stage, *scored: Stage) -> list[Example]:
    """The examples of a transform, with their sums under the loss reference if these were made."""
    examples = [e for table in transformed.tables() for e in examples_from_table(table)]
    rows = [row for stage in scored for row in _rows(stage.tables())]
    return list(with_references(examples, rows)) if scored else examples


def _rows(tables: Iterable[pa.Table]) -> list[ReferenceRow]:
    return [ReferenceRow(**row) for table in tables for row in table.to_pylist()]
