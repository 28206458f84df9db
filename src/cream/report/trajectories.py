"""First and last answers of trajectories, and what their checks are worth; one completion told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cream.records import TrajectoryFigures
from cream.report.ranked import ExplainedCompletion
from cream.runs.reader import ADVANTAGES, RunReader, rows_of
from cream.stages.segment import SegmentSummary

SHOWN = {True: "correct", False: "incorrect", None: "no verdict"}


class TrajectoryResult(TrajectoryFigures):
    """What solutions and checks of one set of completions came to."""

    model: str
    sampled_in: int | None
    """Iteration whose samples they are; null for greedy answers to the test prompts."""


def trajectory_results(run: RunReader) -> list[TrajectoryResult]:
    """Of evaluations and samples, in running order; nothing for methods without trajectories."""
    found = []
    for stage in run.of("evaluate", "segment"):
        spec = stage.spec
        if spec.kind == "segment":
            told: TrajectoryFigures | None = stage.summary(SegmentSummary)
        else:
            value = stage.figures.get("trajectories")
            told = None if value is None else TrajectoryFigures.read(value, stage.folder)
        if told is not None:
            named = {name: getattr(told, name) for name in TrajectoryFigures.model_fields}
            segmented = spec.kind == "segment"
            model = f"M{spec.t}" if segmented else str(spec.model)
            t = spec.t if segmented else None
            found.append(TrajectoryResult(model=model, sampled_in=t, **named))
    return found


def action_words(run: RunReader, t: int, completions: Sequence[ExplainedCompletion]) -> list[str]:
    """A line per completion of a prompt: its actions, their rewards and advantages."""
    segmented, weighed = run.sole("segment", t), run.decisions[t]
    if segmented is None:
        return []
    number = {one.completion_id: i for i, one in enumerate(completions, start=1)}
    table = weighed.file(ADVANTAGES)
    worth: dict[str, list[Mapping[str, Any]] | None] = {}
    if "actions" in table.column_names:
        worth = dict(rows_of(table, "completion_id", "actions"))
    names = ("completion_id", "actions", "action_rewards")
    lines = {
        number[key]: "; ".join(_action(*a) for a in _beside(actions, rewards, worth.get(key)))
        for key, actions, rewards in segmented.rows(*names)
        if key in number
    }
    return [f"#{place}: {words}" for place, words in sorted(lines.items())]


def _beside(
    actions: Sequence[Mapping[str, Any]],
    rewards: Sequence[float] | None,
    worth: Sequence[Mapping[str, Any]] | None,
) -> list[tuple[Mapping[str, Any], float | None, Mapping[str, Any] | None]]:
    nothing = [None] * len(actions)
    return list(zip(actions, rewards or nothing, worth or nothing, strict=True))


def _action(
    action: Mapping[str, Any], reward: float | None, worth: Mapping[str, Any] | None
) -> str:
    if action["kind"] == "solve":
        said = "no answer" if action["answer"] is None else repr(action["answer"])
    else:
        said = SHOWN[action["verdict"]] if action["parse"] != "ambiguous" else "both verdicts"
    words = f"{action['kind']} {said}"
    if reward is not None:
        words += f", reward {reward:+.0f}"
    if worth is not None:
        words += f", advantage {worth['advantage']:+.3f} ({worth['compared_with']})"
    return words
