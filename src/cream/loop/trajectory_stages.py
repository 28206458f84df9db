"""Completions cut into solutions and checks: their stage, and the same in evaluations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from cream.algorithms.action_advantages import WRONG, action_rewards
from cream.algorithms.trajectories import Action
from cream.loop.context import Context
from cream.loop.stage_runner import run_parts
from cream.recipe.columns import LAST_ANSWER
from cream.recipe.trajectory import ProcessCredit, Trajectory
from cream.records import StageSpec, TrajectoryFigures
from cream.runs.files import read_table
from cream.runs.reader import rows_of
from cream.runs.store import Stage, StageRecord
from cream.runs.tables import completions_from_table
from cream.stages.action_advantage import Trajectory as CreditedTrajectory
from cream.stages.advantage import WeighedAction
from cream.stages.evaluate import EvaluationRow
from cream.stages.segment import (
    SegmentSummary,
    actions_of,
    actions_of_text,
    in_words,
    trajectory_figures,
)
from cream.types import Completion, FinishReason, Tally

ACTIONS, REWARDS = "actions", "action_rewards"
"""Columns of lists, joined to completions by id: what a completion is cut into, and +1 or -1 each;
null where the prompt has no answer."""
ACTION_TYPE = pa.list_(
    pa.struct(
        [
            ("kind", pa.string()),
            ("opened", pa.int32()),
            ("end", pa.int32()),
            ("parse", pa.string()),
            ("answer", pa.string()),
            ("verdict", pa.bool_()),
            ("correct", pa.bool_()),
        ]
    )
)
WEIGHED_TYPE = pa.list_(
    pa.struct(
        [
            ("kind", pa.string()),
            ("opened", pa.int32()),
            ("end", pa.int32()),
            ("reward", pa.float64()),
            ("advantage", pa.float64()),
            ("compared_with", pa.string()),
        ]
    )
)
"""The column `ACTIONS` of advantages: of samples that are trained on."""
SEGMENT_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("completion_id", pa.string()),
        (LAST_ANSWER, pa.float64()),
        (ACTIONS, ACTION_TYPE),
        (REWARDS, pa.list_(pa.float64())),
    ]
)


def segment_stage(context: Context, spec: StageSpec) -> StageRecord:
    """Cut a set's completions into parts, verify each answer, read each verdict."""
    (source,) = spec.inputs
    sampled, asked = context.run.finished(source), context.plan.sets[source].prompts
    rule = context.plan.parts(spec.t).trajectory
    assert rule is not None, "planned for methods with trajectories"
    stage = context.stage(
        spec,
        {
            "completions": sampled.fingerprint,
            "prompts": context.prompts_fingerprint(asked),
            **context.verified_by(asked),
            "rewards": rule.rewarded_by,
        },
    )
    prompts = {p.prompt_id: p for p in asked}
    grammar = rule.phrases.grammar

    def work(path: Path) -> pa.Table:
        rows = []
        for one in completions_from_table(read_table(path)):
            actions = actions_of(
                prompts[one.prompt_id], one, grammar, context.verifier, context.encoder.decode
            )
            rows.append(_row(one, actions, rule))
        return pa.Table.from_pylist(rows, schema=SEGMENT_SCHEMA)

    return run_parts(stage, context.progress, sampled, work, _summarise)


def _row(one: Completion, actions: Sequence[Action], rule: Trajectory) -> dict[str, Any]:
    credit = rule.credit
    cut = credit.truncated == "minus_one" and one.finish_reason == FinishReason.LENGTH
    process = isinstance(credit, ProcessCredit)
    rewards = action_rewards(
        actions,
        max_rounds=credit.max_rounds if process else None,
        unparsed_reads_incorrect=process and credit.unparsed == "incorrect",
        last_was_cut=cut,
    )
    last = [action.correct for action in actions if action.kind == "solve"][-1]
    outcome = WRONG if cut or not last else -WRONG
    return {
        "prompt_id": one.prompt_id,
        "completion_id": one.completion_id,
        LAST_ANSWER: None if last is None else outcome,
        ACTIONS: [asdict(action) for action in actions],
        REWARDS: None if last is None else list(rewards),
    }


def actions_from(values: Iterable[dict[str, Any]]) -> tuple[Action, ...]:
    """A value of the column `ACTIONS`."""
    return tuple(Action(**value) for value in values)


def trajectories_of(
    stage: Stage, log_ratios: Mapping[str, tuple[float, ...]] | None
) -> dict[str, CreditedTrajectory]:
    """By completion id what a stage has segmented, with log pi - log ref of tokens, if given."""
    found = {}
    for table in stage.tables(["completion_id", ACTIONS, REWARDS]):
        for key, actions, rewards in rows_of(table, "completion_id", ACTIONS, REWARDS):
            told = (float("nan"),) * len(actions) if rewards is None else tuple(rewards)
            ratios = None if log_ratios is None else log_ratios[key]
            found[key] = CreditedTrajectory(actions_from(actions), told, ratios)
    return found


def weighed_actions(table: pa.Table) -> dict[str, tuple[WeighedAction, ...]]:
    """By completion id, of samples that are trained on; empty where these are weighed whole."""
    if ACTIONS not in table.column_names:
        return {}
    rows = rows_of(table, "completion_id", ACTIONS)
    return {key: tuple(WeighedAction(**a) for a in own) for key, own in rows if own is not None}


def _summarise(stage: Stage) -> tuple[dict[str, Any], str]:
    rows = [
        actions_from(actions)
        for table in stage.tables([ACTIONS])
        for (actions,) in rows_of(table, ACTIONS)
    ]
    figures = trajectory_figures(rows)
    parse = {
        kind: Counter(a.parse for actions in rows for a in actions if a.kind == kind)
        for kind in ("solve", "verify")
    }
    summary = SegmentSummary(
        **dict(figures),
        solves=_tally(parse["solve"]),
        checks=_tally(parse["verify"]),
        unverifiable=len(rows) - figures.counts["total"],
    )
    return summary.as_json(), in_words(figures)


def _tally(parse: Counter[str]) -> Tally:
    return Tally(parse.total(), {str(name): n for name, n in sorted(parse.items())})


def with_actions(context: Context, rows: Sequence[EvaluationRow], table: pa.Table) -> pa.Table:
    """The table of an evaluation, with the actions of each answer where the method has such.

    Positions are of characters, since the rows hold no tokens.
    """
    rule = context.plan.parts(1).trajectory
    if rule is None:
        return table
    prompts, grammar = {p.prompt_id: p for p in context.data.test}, rule.phrases.grammar
    found = [
        [
            asdict(action)
            for action in actions_of_text(
                prompts[row.prompt_id], row.text, grammar, context.verifier
            )
        ]
        for row in rows
    ]
    return table.append_column(ACTIONS, pa.array(found, ACTION_TYPE))


def evaluated_trajectories(stage: Stage) -> TrajectoryFigures | None:
    """Figures of the greedy answers of an evaluation; None where they were not cut."""
    greedy: list[tuple[Action, ...]] = []
    for table in stage.tables():
        if ACTIONS not in table.column_names:
            return None
        rows = rows_of(table, "index", ACTIONS)
        greedy += [actions_from(actions) for index, actions in rows if index == -1]
    return trajectory_figures(greedy)
