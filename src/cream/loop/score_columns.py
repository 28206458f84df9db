"""Stages that fill the score columns beside the log-probabilities: verifier, judge, rewards.

`SCORE_COLUMNS` is the one place where the name of a column leads to what makes its stage and to
what the score matrix takes from it. What is needed follows from the parts of the method.

A part per part of the completions, so an interruption loses one at most and a resumed run equals an
uninterrupted one: seeds are derived from iteration, completion and number of the judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, assert_never

import pyarrow as pa

from cream.algorithms.judging import VERDICT_LABELS, verdict_prompt
from cream.engines.checkpoints import Checkpoints
from cream.engines.judge import AskedModel, PairwiseJudge, RubricJudge
from cream.engines.reward_model import RewardModel
from cream.engines.steering import SteeredScorer
from cream.engines.texts import TextScorer
from cream.engines.verdict import VerdictJudge
from cream.engines.window import DETAILS as VIEW_DETAILS
from cream.loop.answers import answer_stage
from cream.loop.context import Context, ExternalReranker, empty_question
from cream.loop.extensions import OwnScorer
from cream.loop.inference_stages import certainty_stage
from cream.loop.stage_runner import run_parts
from cream.loop.text_scores import VERDICT_DETAILS, score_texts_stage, text_schema
from cream.loop.token_reward_stages import token_reward_stage
from cream.loop.trajectory_stages import segment_stage
from cream.models.chat import ChatEncoder
from cream.protocols import Engine, SamplingParams
from cream.recipe.columns import (
    EDITED,
    EXTRACTED,
    FROM_DATA,
    JUDGE,
    LAST_ANSWER,
    LISTWISE,
    POINTWISE,
    REWARD_MODEL,
    SELF_CERTAINTY,
    STEER,
    TOKEN_REWARDS,
    VERDICT,
    VERIFIER,
    ends_column,
    token_column,
)
from cream.recipe.reranking import RerankerConfig, RerankerSource, WindowConfig
from cream.recipe.scorers import JudgeConfig, JudgeModel, PairwiseJudgeConfig, RewardModelConfig
from cream.records import StageSpec
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage, StageRecord, fingerprint
from cream.runs.tables import completions_from_table
from cream.stages.score import verify
from cream.types import Origin

MARKED = {FROM_DATA: Origin.DATA, EDITED: Origin.EDITED}
"""Columns that mark completions by who made them."""
NAMES_THE_MODEL = {"model", "name", "revision", "chat_template", "trust_remote_code"}
"""Settings that say where a model is; what it is, its fingerprint says."""


JUDGE_SCHEMA = text_schema(JUDGE, **{f"{JUDGE}_count": pa.int32()})
REWARD_MODEL_SCHEMA = text_schema(REWARD_MODEL)
LETTER_SCHEMA = text_schema(VERDICT, **dict.fromkeys(VERDICT_DETAILS, pa.float64()))


LISTWISE_SCHEMA = text_schema(
    LISTWISE,
    **{name if name == POINTWISE else f"{LISTWISE}_{name}": pa.float64() for name in VIEW_DETAILS},
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

    record = score_texts_stage(context, spec, inputs, scorer, JUDGE_SCHEMA, crewed=True)
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

    return score_texts_stage(context, spec, inputs, scorer, REWARD_MODEL_SCHEMA)


def steer_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Scores that a reward steered by one user's choices gives completions; the same for all t."""
    opened = context.scorers.steering
    assert opened is not None, "the steered reward was opened with the run"

    def scorer() -> TextScorer:
        context.checkpoints.release()
        return SteeredScorer(opened.fitted.module, opened.embedder(), opened.context)

    inputs = {"reward": opened.fingerprint}
    record = score_texts_stage(context, spec, inputs, scorer, text_schema(STEER))
    opened.checkpoints.release()
    return record


def verdict_stage(context: Context, spec: StageSpec) -> StageRecord:
    """How probable a model of the run holds it that a completion beats another of its group."""
    settings = context.recipe.scoring.verdicts
    assert settings is not None, "the column `verdict` comes from scoring.verdicts"
    model = "M0" if settings.model == "seed" else f"M{spec.t}"
    inputs = {
        "model": context.model_fingerprint(model),
        "template": context.template_fingerprint,
        "compute_dtype": str(context.checkpoints.compute_dtype),
        "question": fingerprint([verdict_prompt("", "", ""), VERDICT_LABELS]),
        "settings": settings.model_dump(mode="json", exclude=NAMES_THE_MODEL),
    }

    def scorer() -> TextScorer:
        return VerdictJudge(
            context.engine.scorer(model),
            context.encoder,
            context_length=context.checkpoints.context_length,
            label_mass=settings.label_mass,
            temperature=settings.temperature,
        )

    return score_texts_stage(context, spec, inputs, scorer, LETTER_SCHEMA, crewed=True)


def own_scorer_stage(scorer: OwnScorer, context: Context, spec: StageSpec) -> StageRecord:
    """Scores of a scorer that the user brought."""
    inputs, schema = {"scorer": scorer.fingerprint}, text_schema(str(spec.column))
    return score_texts_stage(context, spec, inputs, lambda: scorer, schema)


def listwise_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Both views of the method's reranker: of one that is no model of the run, of M_t or of M0."""
    settings, reranker = context.recipe.method.scorer, context.scorers.reranker
    assert isinstance(settings, RerankerSource), "a method that reads `listwise` has a reranker"
    model = "M0" if settings.model == "seed" else f"M{spec.t}"
    if reranker is None:
        own = context.checkpoints
        known = context.model_fingerprint(model)
        config = RerankerConfig(windows=WindowConfig())
        reranker = ExternalReranker(own, context.encoder, config, known)
    else:
        model = "M0"
    windows = reranker.windows(settings.windows)
    inputs = {
        "reranker": reranker.fingerprint,
        "template": fingerprint(reranker.encoder.template),
        "compute_dtype": str(reranker.checkpoints.compute_dtype),
        "windows": windows.model_dump(mode="json", exclude={"token_budget"}),
    }

    def scorer() -> TextScorer:
        if reranker.checkpoints is not context.checkpoints:
            context.checkpoints.release()
        return reranker.scorer(windows, context.recipe.seed, model)

    record = score_texts_stage(context, spec, inputs, scorer, LISTWISE_SCHEMA)
    if reranker.checkpoints is not context.checkpoints:
        reranker.checkpoints.release()
    return record


def _judge(context: Context, settings: JudgeConfig | PairwiseJudgeConfig, t: int) -> _Judge:
    external = context.scorers.judge
    if external is not None:
        checkpoints, inputs = external.checkpoints, {"model": external.fingerprint}
        return _Judge(checkpoints, context.engine_of(checkpoints), "M0", external.encoder, inputs)
    name = "M0" if settings.model == "seed" else f"M{t}"
    inputs = {"model": context.model_fingerprint(name)}
    if context.engine.name != "torch":
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
    """How a column is made: one of Cream's, of a witness that answers, or of the user's scorer."""
    scorer = context.extensions.scorers.get(name)
    if scorer is not None:
        return ScoreColumn(partial(own_scorer_stage, scorer), (name, f"{name}_reason"))
    answers = ScoreColumn(answer_stage, (name, f"{name}_reason", f"{name}_text"))
    return SCORE_COLUMNS.get(name, answers)


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

    def work(path: Path) -> pa.Table:
        completions = completions_from_table(read_table(path))
        rows = verify(completions, prompts, context.answer_verifier)
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

    return run_parts(stage, context.progress, sampled, work, _summarise_verdicts)


def mark_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Which of a set's completions a data set or an editor brought (1), and which M_t said (0)."""
    column, who = str(spec.column), MARKED[str(spec.column)]
    sampled = context.run.finished(spec.inputs[0])
    stage = context.stage(spec, {"completions": sampled.fingerprint})

    def work(path: Path) -> pa.Table:
        table = read_table(path, ["prompt_id", "completion_id", "origin"])
        marks = [float(origin != Origin.POLICY) for origin in table["origin"].to_pylist()]
        return table.drop_columns("origin").append_column(column, pa.array(marks, pa.float64()))

    def summarise(stage: Stage) -> tuple[dict[str, Any], str]:
        found = int(sum(sum(table[column].to_pylist()) for table in stage.tables([column])))
        return {f"{who}_completions": found}, f"{found} completions of origin {who}"

    return run_parts(stage, context.progress, sampled, work, summarise)


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
    **{name: ScoreColumn(mark_stage, (name,)) for name in MARKED},
    JUDGE: ScoreColumn(judge_stage, (JUDGE, f"{JUDGE}_reason", f"{JUDGE}_count")),
    VERDICT: ScoreColumn(verdict_stage, (VERDICT, f"{VERDICT}_reason", *VERDICT_DETAILS)),
    REWARD_MODEL: ScoreColumn(reward_model_stage, (REWARD_MODEL, f"{REWARD_MODEL}_reason")),
    STEER: ScoreColumn(steer_stage, (STEER, f"{STEER}_reason")),
    SELF_CERTAINTY: ScoreColumn(certainty_stage, (SELF_CERTAINTY,)),
    LISTWISE: ScoreColumn(listwise_stage, (LISTWISE, f"{LISTWISE}_reason", POINTWISE)),
    **{
        name: ScoreColumn(token_reward_stage, (name, token_column(name), ends_column(name)))
        for name in TOKEN_REWARDS
    },
    LAST_ANSWER: ScoreColumn(segment_stage, (LAST_ANSWER,)),
}
