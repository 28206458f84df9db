"""The stage in which a witness answers the prompts of an iteration, and who agrees with it.

A witness that answers says more than one that orders: two models that make mistakes of their own
may put the same one of two wrong answers first, and more rarely give it. The answer is greedy, one
per prompt; each completion of the policy is the same answer (1), another one (0), or cannot be
compared (no value, with the reason).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from cream.algorithms.answers import normalised
from cream.loop.context import Context, sampling_params
from cream.loop.stage_runner import PartProgress, run_parts
from cream.recipe.columns import answer_column
from cream.recipe.parts import SameAnswer
from cream.records import AnswerSummary, EngineUsed, StageSpec
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage, StageRecord
from cream.runs.tables import completions_from_table, read_metadata, with_metadata
from cream.stages.sample import greedy
from cream.types import Completion, FinishReason, Prompt

Spelled = Callable[[Prompt, Completion], Any]
"""What of a completion must be the same; None where it has no answer."""


def answer_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Greedy answers of a witness to the prompts of a set, compared with the set's completions."""
    (source,), witness = spec.inputs, str(spec.model)
    sampled, settings = context.run.finished(source), context.recipe.sampling
    compared = context.plan.phase_parts(spec).answered
    assert compared is not None, "a stage of this kind is planned where answers are compared"
    asked = {p.prompt_id: p for p in context.plan.sets[source].prompts}
    stage = context.stage(
        spec,
        {
            "completions": sampled.fingerprint,
            "model": context.model_fingerprint(witness),
            "template": context.template_fingerprint,
            "compute_dtype": str(context.checkpoints.compute_dtype),
            **context.sampled_by,
            **context.verified_by(list(asked.values())),
            "settings": {"max_completion_tokens": settings.max_completion_tokens},
            "same": compared.same,
        },
    )
    spelled = spelling(context, compared.same)
    within = PartProgress(context.progress)

    def work(path: Path) -> pa.Table:
        completions = completions_from_table(read_table(path))
        prompts = [asked[key] for key in dict.fromkeys(c.prompt_id for c in completions)]
        answers = greedy(
            context.encode(prompts, settings.max_completion_tokens),
            within.sampler(context.engine.sampler(witness)),
            sampling_params(settings, context.encoder),
            seed=derive_seed(context.recipe.seed, "answer", spec.t),
            decode=context.encoder.decode,
        )
        table = _compared(completions, asked, answers, spelled, answer_column(witness))
        given = list(answers.values())
        counted = {
            "answers": len(given),
            "tokens": sum(len(answer.token_ids) for answer in given),
            "truncated": sum(answer.finish_reason == FinishReason.LENGTH for answer in given),
        }
        return with_metadata(table, {"answered": counted})

    def summarise(stage: Stage) -> tuple[dict[str, Any], str]:
        return _summarise(stage, answer_column(witness), context.engine_choice.record)

    return run_parts(stage, context.progress, sampled, work, summarise, within, context.crew)


def spelling(context: Context, same: SameAnswer) -> Spelled:
    """What two completions must share to be the same answer."""

    def extracted(prompt: Prompt, completion: Completion) -> str | None:
        verdict = context.verifier.verify(prompt, completion.text)
        return verdict.extracted if verdict else None

    spelled: dict[SameAnswer, Spelled] = {
        "ids": lambda prompt, completion: completion.token_ids,
        "text": lambda prompt, completion: normalised(completion.text),
        "extracted": extracted,
    }
    return spelled[same]


def _compared(
    completions: Sequence[Completion],
    prompts: dict[str, Prompt],
    answers: dict[str, Completion],
    spelled: Spelled,
    column: str,
) -> pa.Table:
    said = {
        key: None if answer.finish_reason == FinishReason.LENGTH else spelled(prompts[key], answer)
        for key, answer in answers.items()
    }
    rows = []
    for completion in completions:
        key = completion.prompt_id
        own, other = spelled(prompts[key], completion), said[key]
        reason = "scored"
        if other is None:
            cut = answers[key].finish_reason == FinishReason.LENGTH
            reason = "witness_truncated" if cut else "witness_without_answer"
        elif own is None:
            reason = "without_answer"
        rows.append(
            {
                "prompt_id": key,
                "completion_id": completion.completion_id,
                column: float(own == other) if reason == "scored" else None,
                f"{column}_reason": reason,
                f"{column}_text": answers[key].text,
            }
        )
    types = [pa.string(), pa.string(), pa.float64(), pa.string(), pa.string()]
    names = ("prompt_id", "completion_id", column, f"{column}_reason", f"{column}_text")
    return pa.Table.from_pylist(rows, schema=pa.schema(list(zip(names, types, strict=True))))


def _summarise(stage: Stage, column: str, engine: dict[str, str]) -> tuple[dict[str, Any], str]:
    tables = list(stage.tables([column]))
    values = [value for table in tables for value in table[column].to_pylist()]
    counts = [read_metadata(table)["answered"] for table in tables]
    found = AnswerSummary(
        answers=sum(one["answers"] for one in counts),
        tokens=sum(one["tokens"] for one in counts),
        truncated=sum(one["truncated"] for one in counts),
        same=values.count(1.0),
        other=values.count(0.0),
        not_compared=values.count(None),
        **dict(EngineUsed.read(engine, stage.folder)),
    )
    words = f"{found.answers} answers; {found.same} of {len(values)} completions give the same"
    return found.as_json(), words
