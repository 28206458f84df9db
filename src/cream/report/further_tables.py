"""Tables that some methods alone have: models under goals, what samples find or are worth."""

from __future__ import annotations

from collections.abc import Sequence

from cream.pair_records import TokenHeadSummary
from cream.report.edits import EditedIteration
from cream.report.exploration import Exploration, FoundBySamples
from cream.report.summary import Accuracy, Difference, GoalResult, ModelResult, RunSummary
from cream.report.table import (
    ABSENT,
    Table,
    figure,
    percent,
    points,
    share,
    signed,
    within,
)
from cream.report.trajectories import TrajectoryResult
from cream.report.weighed import WeighedIteration
from cream.types import counts


def further_tables(summary: RunSummary) -> list[Table]:
    """What some methods alone have: models under goals, what samples find or are worth."""
    found = []
    if summary.goals:
        found.append(goal_table(summary.goals, summary.models))
    if summary.exploration:
        found.append(exploration_table(summary.exploration))
    if summary.edits:
        found.append(edits_table(summary.edits))
    if summary.weighed:
        found.append(weighed_table(summary.weighed))
    if summary.trajectories:
        found.append(trajectory_table(summary.trajectories))
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


def edits_table(rows: Sequence[EditedIteration]) -> Table:
    """How many completions were edited, how much of them, and what a head learnt of it."""
    told = any(row.head for row in rows)
    return Table(
        "edits",
        (
            *("iteration", "by", "edited", "tokens replaced", "tokens new"),
            *(["head: new, kept, replaced"] if told else []),
        ),
        tuple(
            (
                f"{row.iteration}",
                row.editor,
                f"{row.tally.parts['accepted']} of {row.tally.total}",
                f"{row.replaced_tokens} of {row.original_tokens}",
                f"{row.new_tokens} of {row.edited_tokens}",
                *([_learnt(row.head)] if told else []),
            )
            for row in rows
        ),
        "not edited: "
        + "; ".join(
            f"iteration {row.iteration}: {counts(row.tally.parts, without=['accepted'])}"
            for row in rows
        ),
        words=2,
    )


def _learnt(head: TokenHeadSummary | None) -> str:
    """Mean rewards that a head gives tokens of the edits and originals that it was trained on."""
    if head is None:
        return ABSENT
    return ", ".join(figure(head.mean_reward[name], "+.2f") for name in ("new", "kept", "replaced"))


def weighed_table(rows: Sequence[WeighedIteration]) -> Table:
    """Reward, whether it is right, and how varied the samples are, per iteration."""
    left_out = ", ".join(filter(None, map(_left_out, rows)))
    head = ("iteration", "reward", "mean", "prompts", "samples right")
    return Table(
        "iterations",
        (*head, "right before wrong", "entropy", "vote share", "KL to M0", "tokens"),
        tuple(_weighed_cells(row) for row in rows),
        "mean: of the reward over samples; prompts: those trained on; right before wrong: of two "
        "samples of a prompt, one right, with different rewards, the right one's is higher; 95 % "
        "Wilson intervals; entropy and KL in nats per token; vote share: of a prompt's samples "
        "with its most frequent answer" + (f"; left out: {left_out}" if left_out else ""),
        words=2,
    )


def _weighed_cells(row: WeighedIteration) -> tuple[str, ...]:
    t = row.iteration
    return (
        f"{t} (M{t} -> M{t + 1})",
        row.reward,
        figure(row.mean_reward, ".3f"),
        f"{row.tally.parts['trained']} of {row.tally.total}",
        share(row.right) if row.right.n else "none verified",
        share(row.reward_order) if row.reward_order.n else "none decidable",
        figure(row.entropy, ".3f"),
        percent(row.vote_share),
        figure(row.kl_to_seed_per_token, ".3f"),
        f"{row.mean_completion_tokens:.1f}",
    )


def _left_out(row: WeighedIteration) -> str:
    """Prompts and samples that are not trained on, by reason; empty if all are."""
    of_prompts = counts(row.tally.parts, without=["trained"])
    of_samples = counts(row.completion_tally.parts, without=["trained"])
    prompts = f"prompts {of_prompts}; " if of_prompts else ""
    return f"iteration {row.iteration}: {prompts}samples {of_samples}" if of_samples else ""


def trajectory_table(rows: Sequence[TrajectoryResult]) -> Table:
    """First and last answers, mended and spoilt, and verdicts."""
    head = ("model", "on", "n", "first", "last", "gain", "mended", "spoilt", "retry right")
    return Table(
        "first and last answers",
        (*head, "verdicts true", "balanced", "J", "solves"),
        tuple(_trajectory_cells(row) for row in rows),
        "gain = (1 - first) mended - first spoilt, on counts; mended: of wrong first answers, "
        "those whose last is right; spoilt: of right ones, those whose last is wrong; balanced: "
        "mean of right solutions judged correct and wrong ones judged incorrect; J: how much "
        'likelier "correct" is of a right solution, 0 if checks know nothing',
        words=2,
    )


def _trajectory_cells(row: TrajectoryResult) -> tuple[str, ...]:
    shares, counts = row.shares, row.counts
    first, last = shares["first"], shares["last"]
    total = counts["total"]
    return (
        row.model,
        "test, greedy" if row.sampled_in is None else f"samples of iteration {row.sampled_in}",
        str(total),
        percent(first),
        percent(last),
        "" if first is None or last is None else f"{signed(100 * (last - first), 1)} points",
        percent(shares["mended"]),
        percent(shares["spoilt"]),
        percent(shares["retry"]),
        percent(shares["verdict_accuracy"]),
        figure(shares["balanced"], ".3f"),
        figure(shares["youden"], ".3f"),
        figure(counts["solves"] / total if total else None, ".2f"),
    )
