"""A reward of every token: its score column, and the head that learns it from edits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from cream.algorithms.alignment import token_offsets
from cream.engines.states import Answered, StateReader, after_each_token
from cream.errors import RunError
from cream.loop.context import Context
from cream.loop.stage_runner import run_parts, run_step
from cream.models.token_head import TokenHead, load_token_head, save_token_head
from cream.pair_records import TokenHeadSummary, TokenRewardSummary
from cream.recipe.columns import (
    EDIT_OF,
    EDIT_OUTCOME,
    HEAD,
    LABELS,
    TOUCHED,
    ends_column,
    token_column,
)
from cream.records import StageSpec
from cream.runs.files import read_table
from cream.runs.store import Stage, StageRecord
from cream.runs.tables import completions_from_table
from cream.sampled import HEAD_READS
from cream.stages.edit import ACCEPTED
from cream.stages.token_rewards import labels, log_ratios
from cream.training.token_head import ReadTokens, fit_token_head
from cream.types import Completion, Tally

REWARDED, WITHOUT = "rewarded", "without"
"""Completions in the tally of a column of token rewards."""
Rewards = dict[str, list[float]]


def token_reward_stage(context: Context, spec: StageSpec) -> StageRecord:
    """A reward of every token of a set's completions, and where the tokens end in the text."""
    source, *read = map(context.run.finished, spec.inputs)
    name, decode = str(spec.column), context.encoder.decode
    stage = context.stage(
        spec,
        {
            "completions": source.fingerprint,
            "tokens": [made.fingerprint for made in read],
            "template": context.template_fingerprint,
            **(_read_by(context) if name == HEAD else {}),
        },
    )
    rewards = _rewards(context, source, name, read)

    def work(path: Path) -> pa.Table:
        table = read_table(path)
        completions, found = completions_from_table(table), rewards(path, table)
        told = [found.get(c.completion_id) for c in completions]
        ends = [[end for _, end in token_offsets(c.token_ids, c.text, decode)] for c in completions]
        sums = [None if one is None else float(np.sum(one)) for one in told]
        return pa.table(
            {
                "prompt_id": [c.prompt_id for c in completions],
                "completion_id": [c.completion_id for c in completions],
                name: pa.array(sums, pa.float64()),
                token_column(name): pa.array(told, pa.list_(pa.float32())),
                ends_column(name): pa.array(ends, pa.list_(pa.int32())),
            }
        )

    def summarise(stage: Stage) -> tuple[dict[str, Any], str]:
        found = _summarise_rewards(stage, token_column(name))
        mean = "" if found.mean_reward is None else f", mean {found.mean_reward:.4f}"
        words = f"{found.tokens} tokens of {found.tally.parts[REWARDED]} completions"
        return found.as_json(), f"{words}{mean}"

    return run_parts(stage, context.progress, source, work, summarise)


def _rewards(
    context: Context, source: Stage, name: str, read: Sequence[Stage]
) -> Callable[[Path, pa.Table], Rewards]:
    """A part and its table to the rewards of its completions that have some, by id."""
    if name == LABELS:
        return lambda _, table: labels(table)
    if name != HEAD:
        return lambda path, _: log_ratios(*(read_table(m.folder / path.name) for m in read))

    @cache
    def head() -> TokenHead:
        (fitted,) = read
        fingerprint = context.model_fingerprint(HEAD_READS)
        return load_token_head(fitted.folder, fingerprint=fingerprint)

    prompts = cache(partial(context.encode_set, source.spec.name))

    def by_head(_: Path, table: pa.Table) -> Rewards:
        read_states = states_of(context, completions_from_table(table), prompts())
        with torch.inference_mode():
            return {key: head()(states).tolist() for key, states in read_states}

    return by_head


def states_of(
    context: Context, completions: Sequence[Completion], prompts: dict[str, tuple[int, ...]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Completion id and the states after its tokens, ``(token, hidden)``, in any order."""
    budget = context.recipe.scoring.token_budget
    make = partial(StateReader, take=after_each_token, token_budget=budget)
    reader = context.checkpoints.made_of(HEAD_READS, "states", make)
    return reader.read(
        [Answered(c.completion_id, prompts[c.prompt_id], c.token_ids) for c in completions]
    )


def _read_by(context: Context) -> dict[str, str]:
    """What states depend on beside prompts and completions."""
    return {
        "model": context.model_fingerprint(HEAD_READS),
        "compute_dtype": str(context.checkpoints.compute_dtype),
    }


def _summarise_rewards(stage: Stage, column: str) -> TokenRewardSummary:
    lists = [values for table in stage.tables([column]) for values in table[column].to_pylist()]
    told = [np.array(values, dtype=np.float64) for values in lists if values is not None]
    rewards = np.concatenate([np.empty(0), *told])
    return TokenRewardSummary(
        tally=Tally(len(lists), {REWARDED: len(told), WITHOUT: len(lists) - len(told)}),
        tokens=len(rewards),
        mean_reward=float(rewards.mean()) if len(rewards) else None,
        negative=int((rewards < 0).sum()),
        positive=int((rewards > 0).sum()),
    )


def token_head_stage(context: Context, spec: StageSpec) -> StageRecord:
    """A head on the states of M0 that tells new from replaced tokens of accepted edits."""
    (edits,) = map(context.run.finished, spec.inputs)
    settings = context.plan.parts(spec.t).head
    assert settings is not None, "planned for methods with a head"
    stage = context.stage(
        spec,
        {
            "edits": edits.fingerprint,
            "template": context.template_fingerprint,
            **_read_by(context),
            "settings": settings.model_dump(mode="json"),
        },
    )

    def work() -> tuple[dict[str, Any], str, dict[str, float]]:
        pairs = _read_pairs(context, edits)
        if not pairs:
            raise RunError(
                f"{spec.label}: no edit was accepted, so there is nothing to learn from. "
                "`cream status` counts why; sample more, or loosen method.editing"
            )
        head, losses = fit_token_head(
            pairs,
            settings.build(),
            graded=settings.graded,
            centre=settings.centre,
            steps=settings.steps,
            learning_rate=settings.learning_rate,
        )
        summary = _summarise_head(head, losses, pairs)
        what = {"settings": settings.model_dump(mode="json"), **summary.as_json()}
        save_token_head(
            stage.folder, head, fingerprint=context.model_fingerprint(HEAD_READS), what=what
        )
        words = f"{summary.pairs} edits, loss {losses[0]:.3f} -> {losses[-1]:.3f}"
        return summary.as_json(), words, {"loss": losses[-1]}

    return run_step(stage, context.progress, work)


def _read_pairs(context: Context, edits: Stage) -> list[tuple[ReadTokens, ReadTokens]]:
    """Accepted edits with their originals, read by M0, in the order of the originals.

    Both rows of an edit name the original (`EDIT_OF`); the original's alone has an outcome.
    """
    prompts = context.encode_set(edits.spec.name)
    pairs = []
    for table in edits.tables():
        names = ("completion_id", EDIT_OF, EDIT_OUTCOME, TOUCHED)
        rows = zip(*(table[name].to_pylist() for name in names), strict=True)
        touched = {key: (of, outcome, marks) for key, of, outcome, marks in rows if of is not None}
        completions = [c for c in completions_from_table(table) if c.completion_id in touched]
        originals, edited = dict[str, ReadTokens](), dict[str, ReadTokens]()
        for key, states in states_of(context, completions, prompts):
            of, outcome, marks = touched[key]
            side = originals if outcome == ACCEPTED else edited
            side[of] = ReadTokens(states, torch.tensor(marks))
        order = [key for key in touched if key in originals]
        pairs += [(edited[key], originals[key]) for key in order]
    return pairs


def _summarise_head(
    head: TokenHead, losses: Sequence[float], pairs: Sequence[tuple[ReadTokens, ReadTokens]]
) -> TokenHeadSummary:
    found: dict[str, list[torch.Tensor]] = {"new": [], "replaced": [], "kept": []}
    with torch.inference_mode():
        for pair in pairs:
            for side, name in zip(pair, ("new", "replaced"), strict=True):
                rewards = head(side.states)
                found[name].append(rewards[side.touched])
                found["kept"].append(rewards[~side.touched])
    together = {name: torch.cat(values) for name, values in found.items()}
    return TokenHeadSummary(
        pairs=len(pairs),
        tokens=sum(map(len, together.values())),
        first_loss=losses[0],
        last_loss=losses[-1],
        level=float(head.level),
        mean_reward={name: float(v.mean()) if len(v) else None for name, v in together.items()},
    )
