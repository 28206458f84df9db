"""The stages of scorers that read text: a judge's scores, a reward model's scores.

A part per part of the completions, so an interruption loses one at most and a resumed run equals an
uninterrupted one: seeds are derived from iteration, completion and number of the judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import pyarrow as pa

from cream.engines.checkpoints import Checkpoints
from cream.engines.engine import OnTorch
from cream.engines.judge import AskedModel, PairwiseJudge, RubricJudge
from cream.engines.reward_model import RewardModel
from cream.engines.texts import TextScorer
from cream.loop.context import Context, empty_question
from cream.loop.extensions import OwnScorer
from cream.loop.stage_runner import run_shards
from cream.models.chat import ChatEncoder
from cream.protocols import Engine, SamplingParams
from cream.recipe.parts import JUDGE, REWARD_MODEL
from cream.recipe.scorers import JudgeConfig, JudgeModel, PairwiseJudgeConfig, RewardModelConfig
from cream.records import StageSpec, TextScoreSummary
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage, StageRecord, fingerprint
from cream.runs.tables import completions_from_table
from cream.stages.judge import ScoreRow, score_texts, tally_scores

NAMES_THE_MODEL = {"model", "name", "revision", "chat_template", "trust_remote_code"}
"""Settings that say where a model is; what it is, its fingerprint says."""

JUDGE_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("completion_id", pa.string()),
        (JUDGE, pa.float64()),
        (f"{JUDGE}_reason", pa.string()),
        (f"{JUDGE}_count", pa.int32()),
    ]
)
REWARD_MODEL_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("completion_id", pa.string()),
        (REWARD_MODEL, pa.float64()),
        (f"{REWARD_MODEL}_reason", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class _Judge:
    """The model that judges in one iteration: one of the run, or one of its own."""

    checkpoints: Checkpoints
    engine: Engine
    name: str
    encoder: ChatEncoder
    inputs: dict[str, Any]
    """What decides its judgements, beside questions and settings."""


def judge_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Scores that the method's judge gives completions of iteration t."""
    settings = context.recipe.method.scorer
    assert isinstance(settings, JudgeModel), "a method that reads the column `judge` has a judge"
    judge = _judge(context, settings, spec.t)
    inputs = {
        **judge.inputs,
        "template": fingerprint([judge.encoder.template, list(judge.encoder.stop_ids)]),
        "compute_dtype": str(judge.checkpoints.compute_dtype),
        "rubric": fingerprint(empty_question(settings)),
        "settings": settings.model_dump(mode="json", exclude=NAMES_THE_MODEL),
    }

    def scorer() -> TextScorer:
        if judge.checkpoints is not context.checkpoints:
            context.checkpoints.release()
        return _text_scorer(context, spec.t, settings, judge)

    def table(rows: Sequence[ScoreRow]) -> pa.Table:
        values = [(r.prompt_id, r.completion_id, r.value, r.reason, r.count) for r in rows]
        names = JUDGE_SCHEMA.names
        named = [dict(zip(names, row, strict=True)) for row in values]
        return pa.Table.from_pylist(named, schema=JUDGE_SCHEMA)

    record = _score_texts_stage(context, spec, inputs, scorer, table)
    if judge.checkpoints is not context.checkpoints:
        judge.checkpoints.release()
    return record


def reward_model_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Scores that the method's reward model, the same in every iteration, gives completions."""
    settings = context.recipe.method.scorer
    model = context.scorers.reward_model
    assert isinstance(settings, RewardModelConfig), "a method that reads `reward_model` has one"
    assert model is not None, "the reward model was opened with the run"
    inputs = {
        "model": model.fingerprint,
        "template": fingerprint(model.encoder.template),
        "compute_dtype": str(model.compute_dtype),
        "settings": {"token_budget": settings.token_budget},
    }

    def scorer() -> TextScorer:
        context.checkpoints.release()
        return RewardModel(
            model.load(),
            model.encoder,
            token_budget=settings.token_budget,
            context_length=model.context_length,
        )

    def table(rows: Sequence[ScoreRow]) -> pa.Table:
        values = [(r.prompt_id, r.completion_id, r.value, r.reason) for r in rows]
        names = REWARD_MODEL_SCHEMA.names
        named = [dict(zip(names, row, strict=True)) for row in values]
        return pa.Table.from_pylist(named, schema=REWARD_MODEL_SCHEMA)

    return _score_texts_stage(context, spec, inputs, scorer, table)


def own_scorer_stage(scorer: OwnScorer, context: Context, spec: StageSpec) -> StageRecord:
    """Scores of a scorer that the user brought."""
    column = str(spec.column)

    def table(rows: Sequence[ScoreRow]) -> pa.Table:
        names = ["prompt_id", "completion_id", column, f"{column}_reason"]
        values = [(r.prompt_id, r.completion_id, r.value, r.reason) for r in rows]
        types = [pa.string(), pa.string(), pa.float64(), pa.string()]
        schema = pa.schema(list(zip(names, types, strict=True)))
        named = [dict(zip(names, row, strict=True)) for row in values]
        return pa.Table.from_pylist(named, schema=schema)

    inputs = {"scorer": scorer.fingerprint}
    return _score_texts_stage(context, spec, inputs, lambda: scorer, table)


def _judge(context: Context, settings: JudgeConfig | PairwiseJudgeConfig, t: int) -> _Judge:
    external = context.scorers.judge
    if external is not None:
        checkpoints, inputs = external.checkpoints, {"model": external.fingerprint}
        return _Judge(checkpoints, OnTorch(checkpoints), "M0", external.encoder, inputs)
    name = "M0" if settings.model == "seed" else f"M{t}"
    inputs = {"model": context.model_fingerprint(name)}
    if not isinstance(context.engine, OnTorch):
        inputs |= context.sampled_by
    return _Judge(context.checkpoints, context.engine, name, context.encoder, inputs)


def _text_scorer(
    context: Context, t: int, settings: JudgeConfig | PairwiseJudgeConfig, judge: _Judge
) -> TextScorer:
    """The judge, its model loaded."""
    params = SamplingParams(
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_completion_tokens=settings.max_judgement_tokens,
        stop_ids=judge.encoder.stop_ids,
    )
    asked = AskedModel(
        judge.engine.sampler(judge.name), judge.encoder, params, judge.checkpoints.context_length
    )

    def seed_of(*path: str | int) -> int:
        return derive_seed(context.recipe.seed, "judge", t, *path)

    match settings:
        case JudgeConfig(votes=votes):
            return RubricJudge(asked, votes=votes, seed_of=seed_of)
        case PairwiseJudgeConfig():
            return PairwiseJudge(asked, seed_of=seed_of)
        case _:
            assert_never(settings)


def _score_texts_stage(
    context: Context,
    spec: StageSpec,
    inputs: dict[str, Any],
    make_scorer: Callable[[], TextScorer],
    to_table: Callable[[Sequence[ScoreRow]], pa.Table],
) -> StageRecord:
    """Fill one column; the scorer is made when the first missing part needs it."""
    (source,), column = spec.inputs, str(spec.column)
    sampled = context.run.finished(source)
    prompts = {p.prompt_id: p for p in context.plan.sets[source].prompts}
    stage = context.stage(spec, {"completions": sampled.fingerprint, **inputs})
    made: list[TextScorer] = []

    def work(shard: Sequence[Any]) -> pa.Table:
        (path,) = shard
        if not made:
            made.append(make_scorer())
        completions = completions_from_table(read_table(path))
        return to_table(score_texts(completions, prompts, made[0]))

    return run_shards(
        stage,
        context.progress,
        label=spec.label,
        unit="shards",
        shards=[[path] for path in sampled.parts()],
        work=work,
        summarise=lambda stage: _summarise(stage, column),
    )


def _summarise(stage: Stage, column: str) -> tuple[dict[str, Any], str]:
    reason = f"{column}_reason"
    table = pa.concat_tables(stage.tables([column, reason]))
    tally = tally_scores(table[reason].to_pylist())
    values = [value for value in table[column].to_pylist() if value is not None]
    mean = sum(values) / len(values) if values else None
    summary = TextScoreSummary(tally=tally, mean_score=mean, distinct_scores=len(set(values)))
    words = [f"{name} {count}" for name, count in tally.parts.items()]
    average = "" if mean is None else f", mean {mean:.2f}"
    return summary.as_json(), f"{', '.join(words)} of {tally.total}{average}"
