"""What a training read of a pair beside its two completions: goals, and the answer of optimism."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cream.algorithms.goals import with_goal
from cream.errors import RunError
from cream.recipe.goals import Goals
from cream.report.ranked import ExplainedCompletion, ExplainedPair
from cream.report.terminal import printable
from cream.runs.reader import FinishedStage, RunReader
from cream.runs.tables import examples_from_table
from cream.stages.goals import HIGH, LOW
from cream.types import Message, Origin

SHOWN_CHARACTERS = 80


def require_pairs(run: RunReader) -> None:
    """Advantages mean nothing to another trainer.

    Raises:
        RunError: The method of the run weighs samples in place of making pairs.
    """
    if run.plan.parts[1].advantage is not None:
        raise RunError(
            f"{run.root} has no pairs to export: method {run.values['method']['name']} weighs "
            "every sample by its advantage, which means nothing under another policy. Models are "
            "folders in models/; `cream pair --from` makes pairs of its samples"
        )


def refuse_given_objective(run: RunReader, t: int) -> None:
    """What was trained on the pairs is known to its author only; no other trainer has it.

    Raises:
        RunError: It was trained under an objective that was given in Python.
    """
    trained = run.sole("train", t)
    name = trained.given_objective if trained is not None else None
    if name is not None:
        raise RunError(
            f"iteration {t} of {run.root} trained under the objective {name!r}, which "
            "was given in Python: pairs exported for another trainer would stand for another "
            "loss. Read them with cream.open_run instead"
        )


def goals_of(transformed: FinishedStage) -> dict[str, tuple[int, int] | None]:
    """High and low goal of the examples of an iteration, by pair id; None where none was told."""
    found = {}
    for table in transformed.tables():
        for example in examples_from_table(table):
            told = [example.columns.get(name) for name in (HIGH, LOW)]
            pair = tuple(int(goal) for goal in told if goal is not None)
            found[example.example_id] = pair if len(pair) == 2 else None
    return found


def under_goals(
    rows: Sequence[Mapping[str, Any]],
    turned: Sequence[Mapping[str, Any]],
    goals: Goals,
    told: Mapping[str, tuple[int, int] | None],
) -> list[dict[str, Any]]:
    """Rows of pairs as they were trained: under the high goal, and turned under the low one.

    Pairs that were left out are no rows; one that was told no goal is a row with ``goal`` null.

    Args:
        rows: Exported rows, one per pair.
        turned: The same with their sides exchanged.
        goals: How goals are told.
        told: See `goals_of`.
    """
    found: list[dict[str, Any]] = []
    for row, other in zip(rows, turned, strict=True):
        if row["pair_id"] not in told:
            continue
        pair = told[row["pair_id"]]
        if pair is None:
            found.append({**row, "goal": None})
            continue
        found.append(_asked(row, goals, pair[0]))
        if goals.rows == "both":
            found.append(_asked(other, goals, pair[1]))
    return found


def _asked(row: Mapping[str, Any], goals: Goals, goal: int) -> dict[str, Any]:
    said = [Message(turn["role"], turn["content"]) for turn in row["prompt"]]
    turns = [{"role": m.role, "content": m.content} for m in with_goal(said, goals.told(goal))]
    return {**row, "prompt": turns, "goal": goal}


def training_words(
    run: RunReader,
    t: int,
    prompt_id: str,
    pairs: Sequence[ExplainedPair],
    completions: Sequence[ExplainedCompletion],
) -> list[str]:
    """What a training read of a prompt's pairs beside their completions, in sentences."""
    parts = run.plan.parts[t]
    lines = []
    if parts.sampled_goal is not None:
        lines.append(f"its completions were drawn under goal {parts.sampled_goal}")
    transformed = run.sole("transform", t)
    if parts.goals is not None and pairs and transformed is not None:
        told = goals_of(transformed)
        lines += [_goal_words(f"{p.chosen_id}>{p.rejected_id}", told) for p in pairs]
    if parts.answer is not None and pairs:
        lines += _answer_words(run, t, prompt_id, completions, greedy=parts.answer == "greedy")
    return lines


def _goal_words(pair_id: str, told: Mapping[str, tuple[int, int] | None]) -> str:
    if pair_id not in told:
        return "not trained: its goals are told alike, or it does not fit with one"
    pair = told[pair_id]
    if pair is None:
        return "told no goal (method.goals.share)"
    return f"wins under goal {pair[0]}, loses under goal {pair[1]}"


def _answer_words(
    run: RunReader,
    t: int,
    prompt_id: str,
    completions: Sequence[ExplainedCompletion],
    *,
    greedy: bool,
) -> list[str]:
    if not greedy:
        first = next(
            (i for i, one in enumerate(completions, 1) if one.origin == Origin.POLICY), None
        )
        return [] if first is None else [f"optimism makes #{first} less likely, the first drawn"]
    for stage in run.of("sample"):
        if stage.spec.t == t and stage.spec.origin == Origin.GREEDY and not stage.spec.branch:
            for key, text in stage.rows("prompt_id", "text"):
                if key == prompt_id:
                    said = printable(text, limit=SHOWN_CHARACTERS)
                    return [f"optimism makes the greedy answer of M{t} less likely: {said}"]
    return []
