"""The stages of a recipe in running order, named and counted before anything runs.

It says what `cream.loop.iterations` would do and what the steps would call it; a test compares the
two on whole runs. The stages of data freezing, which take no time, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import assert_never

from cream.data.splits import POLICY
from cream.loop.context import CALIBRATION, Context, Phase, SampleSet
from cream.loop.score_columns import VERIFIER, needed_columns
from cream.recipe.pairing import (
    AllPairs,
    BestRandom,
    BestWorst,
    MajorityVote,
    PairingConfig,
    TopBottom,
)
from cream.runs.outline import PlannedStage, TokenCounts
from cream.runs.tables import FROM_DATA
from cream.types import Prompt, SeedExample

TEST, SEED = "test", "seed"
"""Sources of test prompts and (with the name of a part behind) of seed examples."""


def outline(context: Context) -> list[PlannedStage]:
    """Every stage that the recipe asks for, finished or not, in running order."""
    stages = [*_before_the_loop(context)]
    for t in range(1, context.recipe.iterations + 1):
        stages += _iteration(context, t)
    return list({stage.name: stage for stage in reversed(stages)}.values())[::-1]


def token_counts(context: Context) -> dict[str, TokenCounts]:
    """Mean lengths of the prompts of each source that `outline` names."""
    recipe = context.recipe
    examples = {
        f"{SEED}/{name}": part for name, part in context.seed_parts.items() if name != CALIBRATION
    }
    prompts = {f"iteration-{t}": context.prompts(t) for t in range(1, recipe.iterations + 1)}
    if recipe.calibration is not None:
        prompts[CALIBRATION] = context.calibration_set().prompts
    if context.data.test:
        prompts[TEST] = context.data.test
    return {
        **{name: _counts(context, items, ()) for name, items in prompts.items()},
        **{
            name: _counts(context, [e.prompt for e in part], part)
            for name, part in examples.items()
        },
    }


def _counts(
    context: Context, prompts: Sequence[Prompt], examples: Sequence[SeedExample]
) -> TokenCounts:
    encode = context.encoder.encode_completion
    lengths = [len(item.token_ids) for item in context.encode(prompts, 0)]
    answers = [len(encode(e.prompt.messages, e.completion)) for e in examples]
    return TokenCounts(
        prompt=sum(lengths) / len(lengths),
        completion=sum(answers) / len(answers) if answers else None,
    )


def _before_the_loop(context: Context) -> Iterator[PlannedStage]:
    yield from _evaluate(context, 0)
    yield _fine_tune(context, "M1", context.seed_parts[POLICY], POLICY)
    yield from _evaluate(context, 1)
    for name in context.recipe.witnesses:
        yield _fine_tune(context, name, context.seed_parts[name], name)
    if context.recipe.calibration is not None:
        samples = context.calibration_set()
        yield _sample(context, samples)
        for model in ("M1", "M0", *context.recipe.witnesses):
            yield _score(context, samples, model)
        yield _bookkeeping(context, samples, f"{samples.folder}/matrix", "score matrix")


def _iteration(context: Context, t: int) -> Iterator[PlannedStage]:
    draft, final = context.draft(t), context.phase(t)
    if draft is not None:
        yield from (_sample(context, samples) for samples in draft.sets)
        yield from _decide(context, draft)
    yield from (_sample(context, samples) for samples in final.sets)
    yield from _decide(context, final)
    yield from _evaluate(context, t + 1)


def _decide(context: Context, phase: Phase) -> Iterator[PlannedStage]:
    """Score, pair and train."""
    for samples in phase.sets:
        for model in context.columns(phase.t):
            yield _score(context, samples, model)
        for name in needed_columns(context, phase.t):
            yield _score_column(context, samples, name)
    first = phase.sets[0]
    yield _bookkeeping(context, first, f"{phase.folder}/matrix", "score matrix")
    yield PlannedStage(
        name=f"{phase.folder}/pair",
        label=f"{phase.label}: pair",
        kind="bookkeeping",
        source=_source(first),
        prompts=len(first.prompts),
        completions=_completions(context, first) * len(phase.sets),
    )
    group = context.recipe.sampling.num_completions * len(phase.sets)
    yield PlannedStage(
        name=f"{phase.folder}/train",
        label=f"{phase.label}: train M{phase.t} -> {phase.result}",
        kind="train",
        source=_source(first),
        prompts=len(first.prompts),
        completions=2 * len(first.prompts) * most_pairs(phase.parts.pairing, group),
        model=f"M{phase.t}",
        epochs=context.recipe.training.epochs,
    )


def most_pairs(rule: PairingConfig, group: int) -> int:
    """The most pairs that a rule makes of one prompt with `group` completions."""
    match rule:
        case BestWorst() | BestRandom() | MajorityVote():
            return 1
        case AllPairs():
            return group * (group - 1) // 2
        case TopBottom(k=k):
            return min(k * k, group * (group - 1) // 2)
        case _:
            assert_never(rule)


def _evaluate(context: Context, m: int) -> Iterator[PlannedStage]:
    if not context.data.test:
        return
    settings = context.recipe.evaluation
    folder = {0: "seed-model", 1: "sft"}.get(m, f"iteration-{m - 1}")
    yield PlannedStage(
        name=f"{folder}/evaluate",
        label=f"evaluate M{m}",
        kind="evaluate",
        source=TEST,
        prompts=len(context.data.test),
        completions=len(context.data.test) * (1 + settings.num_samples),
        model=f"M{m}",
        max_completion_tokens=settings.max_completion_tokens,
    )


def _fine_tune(
    context: Context, result: str, examples: Sequence[SeedExample], part: str
) -> PlannedStage:
    return PlannedStage(
        name=context.made_by(result),
        label=f"fine-tune M0 -> {result}",
        kind="fine_tune",
        source=f"{SEED}/{part}",
        prompts=len(examples),
        completions=len(examples),
        model="M0",
        epochs=context.recipe.sft.epochs,
    )


def _sample(context: Context, samples: SampleSet) -> PlannedStage:
    settings = context.recipe.sampling
    return PlannedStage(
        name=f"{samples.folder}/sample",
        label=f"{samples.label}: sample from {samples.model}",
        kind="sample",
        source=_source(samples),
        prompts=len(samples.prompts),
        completions=len(samples.prompts) * settings.num_completions,
        model=samples.model,
        max_completion_tokens=settings.max_completion_tokens,
    )


def _score(context: Context, samples: SampleSet, model: str) -> PlannedStage:
    return PlannedStage(
        name=f"{samples.folder}/score/{model}",
        label=f"{samples.label}: score under {model}",
        kind="score",
        source=_source(samples),
        prompts=len(samples.prompts),
        completions=_completions(context, samples),
        model=model,
    )


COLUMN_LABELS: Mapping[str, str] = {
    VERIFIER: "verify",
    FROM_DATA: "mark the data's completions",
}


def _score_column(context: Context, samples: SampleSet, name: str) -> PlannedStage:
    if name in COLUMN_LABELS:
        folder = f"{samples.folder}/score/{name}"
        return _bookkeeping(context, samples, folder, COLUMN_LABELS[name])
    return PlannedStage(
        name=f"{samples.folder}/score/{name}",
        label=f"{samples.label}: score by {name}",
        kind="text_score",
        source=_source(samples),
        prompts=len(samples.prompts),
        completions=_completions(context, samples),
    )


def _bookkeeping(context: Context, samples: SampleSet, name: str, words: str) -> PlannedStage:
    return PlannedStage(
        name=name,
        label=f"{samples.label}: {words}",
        kind="bookkeeping",
        source=_source(samples),
        prompts=len(samples.prompts),
        completions=_completions(context, samples),
    )


def _completions(context: Context, samples: SampleSet) -> int:
    drawn = len(samples.prompts) * context.recipe.sampling.num_completions
    return drawn + sum(map(len, samples.answers.values()))


def _source(samples: SampleSet) -> str:
    return samples.folder.split("/")[0]
