"""What a stage of training trains on: examples of pairs, of samples, and seed examples again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from cream.algorithms.goals import GOOD_REJECTED
from cream.algorithms.objective import Needs
from cream.algorithms.optimism import ANSWER, IS_CHOSEN, IS_REJECTED
from cream.algorithms.preference import PAIR
from cream.data.splits import POLICY
from cream.loop.advantage_stages import lists_of, weighed_examples
from cream.loop.context import Context
from cream.loop.pairing import UNANIMOUS_FILE
from cream.loop.transform_stages import transformed_examples
from cream.plan import columns, score_columns
from cream.recipe.columns import OF_TOKENS, TOUCHED
from cream.records import StageSpec
from cream.runs.files import read_table
from cream.runs.reader import PAIRS
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage
from cream.runs.tables import LOGP_PREFIX, join_by_id, pairs_from_table
from cream.stages.train import (
    agreed_examples,
    on_touched,
    pair_examples,
    replayed,
    with_answers,
)
from cream.types import Example, FinishReason, Origin, Tally, TokenSequence

TRUNCATED = "truncated"
"""Why an example has no answer: it was cut off, and pairing.truncated drops such."""

NO_PAIR_MARKS = {IS_CHOSEN, IS_REJECTED, GOOD_REJECTED}
"""Columns that say of a pair what is not so of an example without one."""


def stage_examples(
    context: Context, spec: StageSpec, needs: Needs
) -> tuple[list[Example], Tally | None]:
    """Examples of the pairs or samples that a stage of training reads.

    Returns:
        With how many have an answer of M_t beside, where the objective reads one.
    """
    parts = context.plan.phase_parts(spec)
    decided, matrix, *further = map(context.run.finished, spec.inputs)
    if parts.advantage is not None:
        return weighed_examples(context, decided, matrix, *(further or [None])), None
    transformed = [made for made in further if made.spec.kind in ("transform", "score_examples")]
    examples = (
        transformed_examples(*transformed)
        if transformed
        else _training_pairs(context, spec, decided, matrix, needs)
    )
    if parts.tokens == "edited":
        (tokens,) = [made for made in further if made.spec.kind == "score_tokens"]
        pairs = pairs_from_table(read_table(decided.folder / PAIRS))
        touched, logps = lists_of(matrix, TOUCHED), lists_of(tokens, OF_TOKENS)
        examples = on_touched(examples, pairs, touched, logps)
    if parts.transform is None and parts.goals is None:
        examples += _agreed(context, spec, decided, matrix)
    if ANSWER not in needs.roles:
        return examples, None
    answers = _answers(context, spec, matrix, greedy_stages(further))
    return with_answers(examples, _prompts_of(decided), answers)


def greedy_stages(further: Sequence[Stage]) -> list[Stage]:
    """Of what a training reads beside pairs and matrix: M_t's greedy answers, and their scores."""
    return [made for made in further if made.spec.kind in ("sample", "score")]


def _training_pairs(
    context: Context, spec: StageSpec, paired: Stage, matrix: Stage, needs: Needs
) -> list[Example]:
    reference = LOGP_PREFIX + str(spec.reference)
    further = [
        name
        for name in matrix_columns(context, spec)
        if any(f"{role}_{name}" in needs.columns for role in PAIR)
    ]
    wanted = dict.fromkeys(["prompt_id", "completion_id", "token_ids", reference, *further])
    completions = pa.concat_tables(matrix.tables(list(wanted)))
    return pair_examples(
        pairs_from_table(read_table(paired.folder / PAIRS)),
        completions,
        context.encode_set(matrix.spec.inputs[0]),
        reference_column=reference,
        columns=needs.columns,
    )


def _agreed(context: Context, spec: StageSpec, paired: Stage, matrix: Stage) -> list[Example]:
    """Examples of what unanimous groups say, where the method trains on it."""
    agreed = _unanimous(paired)
    if not agreed:
        return []
    reference = LOGP_PREFIX + str(spec.reference)
    return agreed_examples(
        agreed,
        pa.concat_tables(matrix.tables(["completion_id", "token_ids", reference])),
        context.encode_set(matrix.spec.inputs[0]),
        reference_column=reference,
    )


def _unanimous(paired: Stage) -> dict[str, str]:
    """Completion id by prompt id of what unanimous groups say; empty without any."""
    path = paired.folder / UNANIMOUS_FILE
    if not path.exists():
        return {}
    agreed = read_table(path)
    return dict(zip(*(agreed[n].to_pylist() for n in agreed.column_names), strict=True))


def _prompts_of(paired: Stage) -> dict[str, str]:
    """Prompt id by example id, of pairs and of what unanimous groups say."""
    pairs = pairs_from_table(read_table(paired.folder / PAIRS))
    found = {pair.pair_id: pair.prompt_id for pair in pairs.rows()}
    return found | {key: prompt for prompt, key in _unanimous(paired).items()}


def _answers(
    context: Context, spec: StageSpec, matrix: Stage, greedy: Sequence[Stage]
) -> dict[str, TokenSequence | str]:
    """By prompt id the answer, greedy or the first that M_t drew, or why there is none."""
    reference = LOGP_PREFIX + str(spec.reference)
    names = ["prompt_id", "completion_id", "token_ids", "finish_reason", "origin"]
    if greedy:
        sampled, scored = greedy
        sums = pa.concat_tables(scored.tables(["completion_id", reference]))
        table = join_by_id(pa.concat_tables(sampled.tables(names)), sums, [reference])
    else:
        table = pa.concat_tables(matrix.tables([*names, reference]))
    drops = context.plan.phase_parts(spec).paired_by.truncated == "drop"
    found: dict[str, TokenSequence | str] = {}
    for row in table.to_pylist():
        if row["prompt_id"] in found or row["origin"] not in (Origin.POLICY, Origin.GREEDY):
            continue
        cut = drops and row["finish_reason"] == FinishReason.LENGTH
        answer = TokenSequence(tuple(row["token_ids"]), row[reference])
        found[row["prompt_id"]] = TRUNCATED if cut else answer
    return found


def replayed_examples(
    context: Context, spec: StageSpec, needs: Needs, *, beside: int
) -> list[list[Example]]:
    """Seed examples of the learner that this training takes beside its own, by epoch."""
    settings = context.recipe.training
    config = settings.replay
    if config is None:
        return []
    by_epoch = replayed(
        context.plan.seed_parts[spec.learner or POLICY],
        config,
        beside=beside,
        epochs=settings.epochs,
        seed=derive_seed(context.recipe.seed, "replay", spec.t, *spec.branch),
        encoder=context.encoder,
    )
    marks = dict.fromkeys(set(needs.columns) & NO_PAIR_MARKS, 0.0)
    return [[replace(e, columns={**marks, **e.columns}) for e in epoch] for epoch in by_epoch]


def matrix_columns(context: Context, spec: StageSpec) -> tuple[str, ...]:
    """Columns of numbers in the score matrix that a stage of training reads."""
    parts = context.plan.phase_parts(spec)
    models = (LOGP_PREFIX + model for model in columns(context.recipe, parts, spec.t))
    return (*models, *score_columns(parts))
