"""Every text that a run will encode, encoded before a model is loaded: none fails hours later."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cream.algorithms.goals import HIGHEST, with_goal
from cream.errors import DataError
from cream.loop.context import Context
from cream.records import StageSpec
from cream.stages.train import imitated
from cream.types import EncodedPrompt, Origin

SHOWN_FROM = 2_000
"""Seed examples that are encoded in about half a second."""


def check_lengths(context: Context) -> None:
    """Encode every prompt and scored completion.

    Seed examples beyond the context are no error: fine-tuning drops and counts them. What is
    scored must fit.
    """
    recipe = context.recipe
    for spec in context.plan.stages:
        if spec.kind == "sample" and spec.origin == Origin.POLICY and not spec.branch:
            asked = context.plan.sets[spec.name]
            longest = recipe.sampling.max_completion_tokens
            encoded = context.encode(asked.prompts, longest, asked.goal)
            _refuse_long_answers(context, spec, encoded, asked.answers)
    context.encode(context.data.test, recipe.evaluation.max_completion_tokens)
    _check_goals(context)


def _check_goals(context: Context) -> None:
    """Tell goals to every prompt that will be told one, so that a template that refuses fails now.

    Pairs whose prompts become too long are left out and counted later; what is answered under a
    goal must fit.
    """
    for t in range(1, context.recipe.iterations + 1):
        goals = context.plan.parts(t).goals
        if goals is None:
            continue
        for prompt in context.plan.prompts(t):
            context.encoder.encode_prompt(with_goal(prompt.messages, goals.told(HIGHEST)))
        for goal in goals.evaluate:
            longest = context.recipe.evaluation.max_completion_tokens
            context.encode(context.data.test, longest, goals.told(goal))


def _refuse_long_answers(
    context: Context,
    spec: StageSpec,
    encoded: Sequence[EncodedPrompt],
    answers: Mapping[str, Sequence[str]],
) -> None:
    """Completions of the data that join sampled ones are scored as these are."""
    limit, encode = context.checkpoints.context_length, context.encoder.encode_completion
    if limit is None:
        return
    long = [
        len(item.token_ids) + tokens
        for item in encoded
        for answer in answers.get(item.prompt.prompt_id, ())
        if (tokens := len(encode(item.prompt.messages, answer))) + len(item.token_ids) > limit
    ]
    if long:
        total = sum(map(len, answers.values()))
        raise DataError(
            f"{spec.name} scores the completions of the seed data, and {len(long)} of {total} "
            f"exceed the model's context of {limit} tokens with their prompt (the longest has "
            f"{max(long)}); shorten them or leave them out of data.seed"
        )


def check_seed_examples(context: Context) -> None:
    """Encode every seed example, which the encoder remembers until they are trained on."""
    examples, progress = context.data.seed_examples, context.progress
    shown = len(examples) >= SHOWN_FROM
    if shown:
        progress.start("check the seed examples", len(examples), "examples")
    for count, example in enumerate(examples, start=1):
        imitated(example, context.encoder)
        if shown and count % SHOWN_FROM == 0:
            progress.advance(SHOWN_FROM)
    if shown:
        progress.finish()
