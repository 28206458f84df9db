"""Steps that run a model of the run forward: sample, score, evaluate; and the score matrix.

Each step names its artifact, says what determines it, and makes it if missing. What is
computed is the stages' business (`cream.stages`), how it is kept the store's (`cream.runs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import pyarrow as pa

from cream.engines.scorer import TorchScorer
from cream.loop.context import Context, SampleSet, sampling_params
from cream.loop.sample_summary import SAMPLE_COLUMNS, sample_summary
from cream.loop.score_columns import ScoreColumn
from cream.loop.shards import PartProgress, batched, run_shards
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage, StageRecord, fingerprint
from cream.runs.tables import (
    EVALUATION_SCHEMA,
    LOGP_PREFIX,
    NUM_TOKENS,
    completions_from_table,
    completions_to_table,
    interleave,
    join_by_id,
    read_metadata,
    with_metadata,
)
from cream.stages.evaluate import evaluate
from cream.stages.sample import sample, with_data_completions
from cream.stages.score import measure_noise, score
from cream.types import Completion, Prompt

NOISE_GROUPS = 8
"""Prompts whose completions are scored twice to measure the noise floor of a scorer."""


def sample_step(context: Context, samples: SampleSet) -> StageRecord:
    """Completions of a model for a set of prompts."""
    settings = context.recipe.sampling
    answers = samples.answers
    added = {"data_completions": fingerprint(sorted(answers.items()))} if answers else {}
    stage = context.stage(
        f"{samples.folder}/sample",
        {
            "model": context.model_fingerprint(samples.model),
            "prompts": context.prompts_fingerprint(samples.prompts),
            **added,
            "template": context.template_fingerprint,
            "compute_dtype": str(context.shelf.compute_dtype),
            "engine": context.shelf.engine.settings.name,
            **context.extensions.sampler_inputs(),
            "settings": settings.model_dump(mode="json"),
        },
    )
    params = sampling_params(settings, context.encoder)
    within = PartProgress(context.progress)

    def work(shard: Sequence[Any]) -> pa.Table:
        groups = sample(
            context.encode(shard, settings.max_completion_tokens),
            within.sampler(context.shelf.sampler(samples.model)),
            params,
            num_completions=settings.num_completions,
            seed_of=lambda key, k: derive_seed(context.recipe.seed, *samples.seed_name, key, k),
            decode=context.encoder.decode,
            origin=samples.origin,
        )
        if answers:
            groups = _with_data(context, {p.prompt_id: p for p in shard}, answers, groups)
        return completions_to_table(c for group in groups for c in group)

    return run_shards(
        stage,
        context.progress,
        label=f"{samples.label}: sample from {samples.model}",
        unit="prompts",
        shards=batched(samples.prompts, settings.prompts_per_shard),
        work=work,
        summarise=lambda stage: _summarise_samples(stage, context.shelf.engine.record),
        within=within,
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
    summary = {**sample_summary(stage.tables(SAMPLE_COLUMNS)), **engine}
    counts = (f"{summary[key]} {key}" for key in ("completions", "distinct", "truncated"))
    return summary, ", ".join(counts)


def score_step(context: Context, samples: SampleSet, model: str) -> StageRecord:
    """Log-probabilities of a set's completions under one model."""
    sampled = context.run.finished(f"{samples.folder}/sample")
    stage = context.stage(
        f"{samples.folder}/score/{model}",
        {
            "completions": sampled.fingerprint,
            "model": context.model_fingerprint(model),
            "compute_dtype": str(context.shelf.compute_dtype),
            "settings": {"token_budget": context.recipe.scoring.token_budget},
        },
    )

    @cache
    def prompt_ids() -> dict[str, tuple[int, ...]]:
        encoded = context.encode(samples.prompts, 0)
        return {p.prompt.prompt_id: p.token_ids for p in encoded}

    within = PartProgress(context.progress)

    def work(shard: Sequence[Any]) -> pa.Table:
        (path,) = shard
        groups = _groups(completions_from_table(read_table(path)))
        scorer = TorchScorer(
            context.shelf.for_inference(model), token_budget=context.recipe.scoring.token_budget
        )
        rows = score(groups, prompt_ids(), within.scorer(scorer))
        table = pa.table(
            {
                "prompt_id": [row.prompt_id for row in rows],
                "completion_id": [row.completion_id for row in rows],
                LOGP_PREFIX + model: pa.array([row.logps for row in rows], pa.float64()),
                NUM_TOKENS: pa.array([row.num_tokens for row in rows], pa.int32()),
            }
        )
        if path == sampled.parts()[0]:
            noise = measure_noise(groups[:NOISE_GROUPS], prompt_ids(), scorer)
            table = with_metadata(table, {"noise": noise})
        return table

    def summarise(stage: Stage) -> tuple[dict[str, Any], str]:
        noise = read_metadata(next(stage.tables()))["noise"]
        return {"noise": noise}, f"noise floor {noise:.2g} nats per sqrt(token)"

    return run_shards(
        stage,
        context.progress,
        label=f"{samples.label}: score under {model}",
        unit="prompts",
        shards=[[path] for path in sampled.parts()],
        work=work,
        summarise=summarise,
        sizes=[len(s) for s in batched(samples.prompts, context.recipe.sampling.prompts_per_shard)],
        within=within,
    )


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

    def part(self, index: int, taken: Mapping[str, ScoreColumn]) -> pa.Table:
        """Completions of a part with their columns, joined by id."""
        table = read_table(self.sampled.part(index))
        for place, (name, column) in enumerate(self.columns.items()):
            names = [LOGP_PREFIX + name] if place else [NUM_TOKENS, LOGP_PREFIX + name]
            table = join_by_id(table, read_table(column.part(index)), names)
        for name, other in self.scores.items():
            table = join_by_id(table, read_table(other.part(index)), taken[name].columns)
        return table


def matrix_step(
    context: Context,
    folder: str,
    sets: Sequence[SampleSet],
    models: Sequence[str],
    scores: Mapping[str, ScoreColumn],
) -> StageRecord:
    """The score matrix in ``<folder>/matrix``: the sets' completions with the columns named."""
    finished = context.run.finished
    joined = [
        _ScoredSet(
            finished(f"{samples.folder}/sample"),
            {name: finished(f"{samples.folder}/score/{name}") for name in models},
            {name: finished(f"{samples.folder}/score/{name}") for name in scores},
        )
        for samples in sets
    ]
    first = joined[0]
    others = {
        samples.origin: other.fingerprints
        for samples, other in zip(sets[1:], joined[1:], strict=True)
    }
    stage = context.stage(
        f"{folder}/matrix", {**first.fingerprints, **({"others": others} if others else {})}
    )

    def work(shard: Sequence[Any]) -> pa.Table:
        (index,) = shard
        table = interleave([one.part(index, scores) for one in joined])
        noise = {
            name: read_metadata(read_table(column.part(0), ["completion_id"]))["noise"]
            for name, column in first.columns.items()
        }
        return with_metadata(table, {"noise": noise})

    return run_shards(
        stage,
        context.progress,
        label=f"{sets[0].label}: score matrix",
        unit="shards",
        shards=[[index] for index in range(len(first.sampled.parts()))],
        work=work,
        summarise=lambda stage: ({"columns": list(models)}, ", ".join(models)),
    )


def evaluate_step(context: Context, m: int) -> StageRecord | None:
    """Results of M_m on the test prompts; None if the recipe has none."""
    if not context.data.test:
        return None
    settings = context.recipe.evaluation
    folder = {0: "seed-model", 1: "sft"}.get(m, f"iteration-{m - 1}")
    stage = context.stage(
        f"{folder}/evaluate",
        {
            "model": context.model_fingerprint(f"M{m}"),
            "test": context.prompts_fingerprint(context.data.test),
            "template": context.template_fingerprint,
            "compute_dtype": str(context.shelf.compute_dtype),
            "engine": context.shelf.engine.settings.name,
            **context.extensions.sampler_inputs(),
            **context.verified_by(context.data.test),
            "settings": settings.model_dump(mode="json"),
        },
    )
    params = sampling_params(settings, context.encoder)
    within = PartProgress(context.progress, passes=2 if settings.num_samples else 1)

    def work(shard: Sequence[Any]) -> pa.Table:
        rows = evaluate(
            context.encode(shard, settings.max_completion_tokens),
            within.sampler(context.shelf.sampler(f"M{m}")),
            context.verifier,
            params,
            num_samples=settings.num_samples,
            seed_of=lambda key, k: derive_seed(context.recipe.seed, "evaluate", key, k),
            decode=context.encoder.decode,
        )
        return pa.Table.from_pylist([asdict(row) for row in rows], schema=EVALUATION_SCHEMA)

    return run_shards(
        stage,
        context.progress,
        label=f"evaluate M{m}",
        unit="prompts",
        shards=batched(context.data.test, settings.prompts_per_shard),
        work=work,
        summarise=lambda stage: _summarise_evaluation(stage, context.shelf.engine.record),
        within=within,
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
    summary = {"greedy_right": right, "greedy_total": total, "answers": table.num_rows, **engine}
    return summary, f"greedy accuracy {100 * right / total:.1f} % of {total}"


def _groups(completions: Sequence[Completion]) -> list[list[Completion]]:
    groups: dict[str, list[Completion]] = {}
    for completion in completions:
        groups.setdefault(completion.prompt_id, []).append(completion)
    return list(groups.values())
