"""Tables that some methods alone have: models under goals, and what samples find."""

from __future__ import annotations

from collections.abc import Sequence

from cream.report.exploration import Exploration, FoundBySamples
from cream.report.summary import Accuracy, Difference, GoalResult, ModelResult, RunSummary
from cream.report.table import Table, figure, percent, points, within


def further_tables(summary: RunSummary) -> list[Table]:
    """What some methods alone have: models under goals, and what samples find."""
    found = []
    if summary.goals:
        found.append(goal_table(summary.goals, summary.models))
    if summary.exploration:
        found.append(exploration_table(summary.exploration))
    return found


def goal_table(results: Sequence[GoalResult], models: Sequence[ModelResult]) -> Table:
    """Accuracy and length of each model without a goal and under each."""
    without = {model.model: model.overall for model in models}
    rows = []
    for name in dict.fromkeys(row.model for row in results):
        if name in without:
            rows.append((name, "none", *_goal_cells(without[name], None)))
        rows += [
            (name, str(row.goal), *_goal_cells(row.overall, row.difference))
            for row in results
            if row.model == name
        ]
    return Table(
        "models under goals",
        ("model", "goal", "greedy accuracy", "vs no goal", "tokens", "n"),
        tuple(rows),
        "goal: the score that the model is told to reach, 1 to 10; a gain that M0 or M1 has too is "
        "the text's, not the training's",
        words=2,
    )


def _goal_cells(overall: Accuracy, difference: Difference | None) -> tuple[str, ...]:
    return (
        within(overall.accuracy, overall.low, overall.high),
        points(difference),
        f"{overall.mean_tokens:.1f}",
        str(overall.n),
    )


def exploration_table(rows: Sequence[Exploration]) -> Table:
    """What samples find, apart for prompts that M1 answers rightly and wrongly."""
    k = rows[0].k
    head = ("n", "greedy", f"mean@{k}", f"pass@{k}", "different")
    return Table(
        "exploration: test prompts that M1's greedy answer has right, and wrong",
        ("model", *(f"right: {h}" for h in head), *(f"wrong: {h}" for h in head)),
        tuple(
            (row.model, *_found_cells(row.first_right), *_found_cells(row.first_wrong))
            for row in rows
        ),
        f"different: of the {k} samples of a prompt, mean; more of them without a higher pass@{k} "
        "is noise, not exploration",
    )


def _found_cells(found: FoundBySamples) -> tuple[str, ...]:
    return (
        str(found.n),
        percent(found.greedy),
        percent(found.mean_at_k),
        percent(found.pass_at_k),
        figure(found.different, ".2f"),
    )
