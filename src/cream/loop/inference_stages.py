"""Stages that run a model of the run forward: sample, score, evaluate.

Each function names its artifact, says what determines it, and makes it if missing. What is
computed is the stages' business (`cream.stages`), how it is kept the store's (`cream.runs`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, astuple
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cream.algorithms.diagnostics import distinct_ngrams
from cream.algorithms.statistics import Absent
from cream.engines.certainty import SelfCertainty
from cream.loop.context import Context, sampling_params
from cream.loop.stage_runner import PartProgress, batched, run_parts, run_shards
from cream.loop.trajectory_stages import evaluated_trajectories, with_actions
from cream.recipe.columns import OF_TOKENS, SELF_CERTAINTY
from cream.records import (
    EngineUsed,
    EvaluateSummary,
    SampleProfile,
    SampleSummary,
    ScoreSummary,
    StageSpec,
)
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage, StageRecord, fingerprint
from cream.runs.tables import (
    EVALUATION_SCHEMA,
    LOGP_PREFIX,
    NUM_TOKENS,
    completions_from_table,
    completions_to_table,
    read_metadata,
    with_metadata,
)
from cream.stages.evaluate import evaluate
from cream.stages.sample import greedily, sample, with_data_completions
from cream.stages.score import measure_noise, score, scoring_requests
from cream.stages.segment import in_words
from cream.types import Completion, FinishReason, Origin, Prompt

NOISE_GROUPS = 8
"""Prompts whose completions are scored twice to measure the noise floor of a scorer."""


def sample_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Completions of a model for a set of prompts."""
    settings, model = context.recipe.sampling, str(spec.model)
    samples = context.plan.sets[spec.name]
    answers = samples.answers
    added = {"data_completions": fingerprint(sorted(answers.items()))} if answers else {}
    if samples.greedy:
        added["decoding"] = "greedy"
    if samples.goal is not None:
        added["goal"] = fingerprint(astuple(samples.goal))
    stage = context.stage(
        spec,
        {
            "model": context.model_fingerprint(model),
            "prompts": context.prompts_fingerprint(samples.prompts),
            **added,
            "template": context.template_fingerprint,
            "compute_dtype": str(context.checkpoints.compute_dtype),
            **context.sampled_by,
            "settings": settings.model_dump(mode="json"),
        },
    )
    params = sampling_params(settings, context.encoder)
    if samples.greedy:
        params = greedily(params)
    within = PartProgress(context.progress)

    def work(shard: Sequence[Any]) -> pa.Table:
        groups = sample(
            context.encode(shard, settings.max_completion_tokens, samples.goal),
            within.sampler(context.engine.sampler(model)),
            params,
            num_completions=1 if samples.greedy else settings.num_completions,
            seed_of=lambda key, k: derive_seed(context.recipe.seed, *samples.seed_name, key, k),
            decode=context.encoder.decode,
            origin=Origin(str(spec.origin)),
        )
        if answers:
            groups = _with_data(context, {p.prompt_id: p for p in shard}, answers, groups)
        return completions_to_table(c for group in groups for c in group)

    return run_shards(
        stage,
        context.progress,
        label=spec.label,
        unit="prompts",
        shards=batched(samples.prompts, settings.prompts_per_shard),
        work=work,
        summarise=lambda stage: _summarise_samples(stage, context.engine_choice.record),
        within=within,
        crew=context.crew,
    )


def _with_data(
    context: Context,
    prompts: Mapping[str, Prompt],
    answers: Mapping[str, Sequence[str]],
    groups: Iterable[list[Completion]],
) -> Iterator[list[Completion]]:
    """The same groups, each with the data's completions first."""
    encoder = context.encoder
    for group in groups:
        key = group[0].prompt_id
        encode = partial(encoder.encode_completion, prompts[key].messages)
        yield with_data_completions(group, answers[key], encode, encoder.decode)


def _summarise_samples(stage: Stage, engine: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    found = sample_summary(stage.tables(SAMPLE_COLUMNS))
    used = EngineUsed.read(engine, stage.folder)
    summary = SampleSummary(**dict(found), **dict(used))
    words = f"{found.completions} completions, {found.distinct} distinct, "
    return summary.as_json(), f"{words}{found.truncated} truncated"


def score_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Log-probabilities of a set's completions under one model."""
    (source,), model = spec.inputs, str(spec.model)
    sampled = context.run.finished(source)
    stage = context.stage(
        spec,
        {
            "completions": sampled.fingerprint,
            "model": context.model_fingerprint(model),
            "compute_dtype": str(context.checkpoints.compute_dtype),
            "settings": {"token_budget": context.recipe.scoring.token_budget},
        },
    )

    prompts = context.plan.sets[source].prompts
    prompt_token_ids = cache(partial(context.encode_set, source))
    within = PartProgress(context.progress)

    def work(shard: Sequence[Any]) -> pa.Table:
        (path,) = shard
        groups = _groups(completions_from_table(read_table(path)))
        scorer = context.engine.scorer(model)
        rows = score(groups, prompt_token_ids(), within.scorer(scorer))
        table = pa.table(
            {
                "prompt_id": [row.prompt_id for row in rows],
                "completion_id": [row.completion_id for row in rows],
                LOGP_PREFIX + model: pa.array([row.logps for row in rows], pa.float64()),
                NUM_TOKENS: pa.array([row.num_tokens for row in rows], pa.int32()),
            }
        )
        if path == sampled.parts()[0]:
            noise = measure_noise(groups[:NOISE_GROUPS], prompt_token_ids(), scorer)
            table = with_metadata(table, {"noise": noise})
        return table

    def summarise(stage: Stage) -> tuple[dict[str, Any], str]:
        noise = read_metadata(next(stage.tables()))["noise"]
        return ScoreSummary(noise=noise).as_json(), f"noise floor {noise:.2g} nats per sqrt(token)"

    return run_shards(
        stage,
        context.progress,
        label=spec.label,
        unit="prompts",
        shards=[[path] for path in sampled.parts()],
        work=work,
        summarise=summarise,
        sizes=[len(s) for s in batched(prompts, context.recipe.sampling.prompts_per_shard)],
        within=within,
        crew=context.crew,
    )


def score_tokens_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Log-probabilities of every token of a set's completions under the loss reference."""
    model = str(spec.model)

    def rows(groups: list[list[Completion]], prompts: Mapping[str, tuple[int, ...]]) -> pa.Table:
        scored = context.engine.scorer(model).score(scoring_requests(groups, prompts))
        found = {group.prompt_id: group.token_logps for group in scored}
        logps = [row.tolist() for group in groups for row in found[group[0].prompt_id]]
        return _by_completion(groups, OF_TOKENS, pa.array(logps, pa.list_(pa.float32())))

    return _column_stage(context, spec, rows)


def certainty_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Self-certainty of a set's completions under the model that sampled them."""
    make = partial(
        SelfCertainty,
        token_budget=context.recipe.scoring.token_budget,
        say=context.checkpoints.say,
    )

    def rows(groups: list[list[Completion]], prompts: Mapping[str, tuple[int, ...]]) -> pa.Table:
        scorer = context.checkpoints.made_of(str(spec.model), "certainty", make)
        found = dict(scorer.score(scoring_requests(groups, prompts)))
        values = [value for group in groups for value in found[group[0].prompt_id]]
        return _by_completion(groups, SELF_CERTAINTY, pa.array(values, pa.float64()))

    return _column_stage(context, spec, rows)


def _by_completion(groups: list[list[Completion]], name: str, values: pa.Array) -> pa.Table:
    """A column in the order of the groups, beside the ids that it is joined by, and lengths."""
    completions = [c for group in groups for c in group]
    return pa.table(
        {
            "prompt_id": [c.prompt_id for c in completions],
            "completion_id": [c.completion_id for c in completions],
            NUM_TOKENS: pa.array([len(c.token_ids) for c in completions], pa.int32()),
            name: values,
        }
    )


def _column_stage(
    context: Context,
    spec: StageSpec,
    rows: Callable[[list[list[Completion]], Mapping[str, tuple[int, ...]]], pa.Table],
) -> StageRecord:
    """A column that a model of the run fills in one pass, part by part."""
    (source,) = spec.inputs
    sampled = context.run.finished(source)
    stage = context.stage(
        spec,
        {
            "completions": sampled.fingerprint,
            "model": context.model_fingerprint(str(spec.model)),
            "compute_dtype": str(context.checkpoints.compute_dtype),
            "settings": {"token_budget": context.recipe.scoring.token_budget},
        },
    )
    prompt_token_ids = cache(partial(context.encode_set, source))

    def summarise(stage: Stage) -> tuple[dict[str, Any], str]:
        scored = sum(table.num_rows for table in stage.tables(["completion_id"]))
        return {"scored": scored}, f"{scored} completions"

    def work(path: Path) -> pa.Table:
        return rows(_groups(completions_from_table(read_table(path))), prompt_token_ids())

    return run_parts(stage, context.progress, sampled, work, summarise)


def evaluate_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Results of a model on the test prompts, told a goal or not."""
    settings, model = context.recipe.evaluation, str(spec.model)
    goals = context.plan.parts(max(spec.t, 1)).goals
    goal = goals.told(int(spec.column)) if goals and spec.column else None
    stage = context.stage(
        spec,
        {
            "model": context.model_fingerprint(model),
            "test": context.prompts_fingerprint(context.data.test),
            "template": context.template_fingerprint,
            "compute_dtype": str(context.checkpoints.compute_dtype),
            **context.sampled_by,
            **context.verified_by(context.data.test),
            **({} if goal is None else {"goal": fingerprint(astuple(goal))}),
            "settings": settings.model_dump(mode="json"),
        },
    )
    params = sampling_params(settings, context.encoder)
    within = PartProgress(context.progress, passes=2 if settings.num_samples else 1)

    def work(shard: Sequence[Any]) -> pa.Table:
        rows = evaluate(
            context.encode(shard, settings.max_completion_tokens, goal),
            within.sampler(context.engine.sampler(model)),
            context.answer_verifier,
            params,
            num_samples=settings.num_samples,
            seed_of=lambda key, k: derive_seed(context.recipe.seed, "evaluate", key, k),
            decode=context.encoder.decode,
        )
        found = list(rows)
        table = pa.Table.from_pylist([asdict(row) for row in found], schema=EVALUATION_SCHEMA)
        return with_actions(context, found, table)

    return run_shards(
        stage,
        context.progress,
        label=spec.label,
        unit="prompts",
        shards=batched(context.data.test, settings.prompts_per_shard),
        work=work,
        summarise=lambda stage: _summarise_evaluation(stage, context.engine_choice.record),
        within=within,
        crew=context.crew,
        live=_greedy_accuracy,
    )


def _greedy_accuracy(part: pa.Table) -> dict[str, float]:
    rows = zip(part["index"].to_pylist(), part["correct"].to_pylist(), strict=True)
    greedy = [correct for index, correct in rows if index == -1]
    return {"accuracy": sum(greedy) / len(greedy)}


def _summarise_evaluation(stage: Stage, engine: Mapping[str, str]) -> tuple[dict[str, Any], str]:
    table = pa.concat_tables(stage.tables(["index", "correct"]))
    rows = zip(table["index"].to_pylist(), table["correct"].to_pylist(), strict=True)
    greedy = [correct for index, correct in rows if index == -1]
    right, total = sum(greedy), len(greedy)
    used = EngineUsed.read(engine, stage.folder)
    trajectories = evaluated_trajectories(stage)
    summary = EvaluateSummary(
        greedy_right=right,
        greedy_total=total,
        answers=table.num_rows,
        trajectories=trajectories,
        **dict(used),
    )
    words = f"greedy accuracy {100 * right / total:.1f} % of {total}"
    return summary.as_json(), words if trajectories is None else in_words(trajectories)


def _groups(completions: Sequence[Completion]) -> list[list[Completion]]:
    groups: dict[str, list[Completion]] = {}
    for completion in completions:
        groups.setdefault(completion.prompt_id, []).append(completion)
    return list(groups.values())


SAMPLE_COLUMNS = ["prompt_id", "ids_hash", "token_ids", "finish_reason", "origin"]
"""What is read of a sample table."""
DISTINCT_COMPLETIONS = 20_000
"""Most completions whose n-grams are counted: the count needs all of their tokens at once."""


def sample_summary(
    tables: Iterable[pa.Table], *, max_distinct: int = DISTINCT_COMPLETIONS
) -> SampleProfile:
    """Figures of a sample stage (see the glossary).

    Args:
        tables: The stage's parts with `SAMPLE_COLUMNS`, a prompt's completions in one part.
        max_distinct: ``distinct_2`` is that of this many completions, the first ones.

    """
    truncated = distinct = 0
    lengths: list[np.ndarray] = [np.empty(0, np.int64)]
    ids: list[np.ndarray] = [np.empty(0, np.int64)]
    room = max_distinct
    for part in tables:
        sampled = [origin != Origin.DATA for origin in part["origin"].to_pylist()]
        table = part.filter(pa.array(sampled, pa.bool_()))
        token_ids = table["token_ids"].combine_chunks()
        lengths.append(token_ids.value_lengths().to_numpy().astype(np.int64))
        ids.append(token_ids.slice(0, room).flatten().to_numpy())
        room = max(room - table.num_rows, 0)
        truncated += table["finish_reason"].to_pylist().count(FinishReason.LENGTH)
        distinct += table.group_by(["prompt_id", "ids_hash"]).aggregate([]).num_rows
    tokens = np.concatenate(lengths)
    counted = tokens[:max_distinct]
    share = distinct_ngrams(np.concatenate(ids), np.concatenate([[0], counted.cumsum()]), n=2)
    return SampleProfile(
        completions=len(tokens),
        tokens=int(tokens.sum()),
        truncated=truncated,
        distinct=distinct,
        duplicate_rate=1 - distinct / len(tokens) if len(tokens) else None,
        distinct_2=None if isinstance(share, Absent) else float(share),
        distinct_2_completions=len(counted),
    )
