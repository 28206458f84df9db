"""What came out: accuracy per model, the gain over M1 in a sentence, accuracy per task.

The functions take plain summaries under names, one or several, so that runs of different methods
(or the means of `cream compare`) stand in one figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cream.records import ConstantAnswer
from cream.report.markup import EMPTY, Html, PageSection, join, paragraph, tag, text
from cream.report.page.axes import Frame, category_axis, percent_axis
from cream.report.page.figures import Point, Reference, Series, Words, point_figure
from cream.report.summary import Difference, ModelResult, RunSummary, overall_baseline
from cream.report.table import html, percent, signed
from cream.report.tables import accuracy_table

Summaries = Mapping[str, RunSummary]
"""Summaries of runs (`cream.report.summary.summarise_run`) by the name the page gives them."""

ONE_SEED = (
    "The interval covers the choice of test prompts, not the randomness of training: "
    "another seed may come out elsewhere."
)


def headline(runs: Summaries) -> PageSection:
    """Accuracy of every model with intervals, and what the gain over M1 means."""
    told = {name: summary for name, summary in runs.items() if summary.models}
    if not told:
        body = paragraph("No model has been evaluated yet, so there is no result to show.")
        return PageSection("result", "Result", body)
    verdicts = [_verdict(name if len(runs) > 1 else "", summary) for name, summary in told.items()]
    told_by = tag("div", *verdicts, paragraph(ONE_SEED, "note"), attributes={"class": "verdict"})
    beside = tag("div", told_by, _accuracy(told), attributes={"class": "beside"})
    rows = [(name, row) for name, run in told.items() for row in run.models]
    named = rows if len(runs) > 1 else [("", row) for _, row in rows]
    table = html(accuracy_table("Accuracy of greedy answers", named))
    return PageSection("result", "Result", join([beside, table]))


def gain_in_words(gain: Difference, model: str, n: int) -> str:
    """What the paired difference to M1 allows one to say, in one sentence."""
    points, low, high = 100 * gain.difference, _minus(gain.low), _minus(gain.high)
    interval = f"95 % interval {low} to {high}, {n} test prompts"
    if gain.low > 0:
        return (
            f"{model} answers {abs(points):.1f} points more of the test prompts rightly than M1 "
            f"({interval}): better, beyond what the choice of test prompts explains."
        )
    if gain.high < 0:
        return (
            f"{model} answers {abs(points):.1f} points fewer of the test prompts rightly than M1 "
            f"({interval}): worse, beyond what the choice of test prompts explains."
        )
    return (
        f"No difference between {model} and M1 is shown: {_minus(gain.difference)} points "
        f"({interval}), and the interval includes zero."
    )


def _minus(difference: float) -> str:
    """In points, with a true minus."""
    return signed(100 * difference).replace("-", "−")


def _verdict(name: str, summary: RunSummary) -> Html:
    last = summary.models[-1]
    n = last.overall.n
    if last.gain is None:
        said = (
            f"{last.model} answers {percent(last.overall.accuracy)} of {n} test prompts "
            "rightly; there is no later model to compare with M1 yet."
        )
    else:
        said = gain_in_words(last.gain, last.model, n)
    constant = overall_baseline(summary.baseline)
    if constant is not None:
        said += f" The best fixed answer per task would score {percent(constant)}."
    label = tag("strong", text(f"{name}: ")) if name else EMPTY
    return tag("p", label, text(said))


def _accuracy(runs: Summaries) -> Html:
    names = list(dict.fromkeys(row.model for run in runs.values() for row in run.models))
    series = [
        Series(
            label,
            tuple(
                Point(float(names.index(row.model)), o.accuracy, o.low, o.high, o.n)
                for row in run.models
                for o in [row.overall]
            ),
        )
        for label, run in runs.items()
    ]
    found = (overall_baseline(run.baseline) for run in runs.values())
    constants = {round(constant, 12) for constant in found if constant is not None}
    references = [Reference("best fixed answer per task", c, c) for c in sorted(constants)]
    top = max([p.high or p.y for one in series for p in one.points] + list(constants))
    frame = Frame(category_axis("model", names), percent_axis("greedy accuracy, %", top))
    tests = " or ".join(sorted({str(p.n) for one in series for p in one.points}))
    said = Words(
        "Accuracy of each model",
        f"Share of {tests} test prompts whose greedy answer is correct; bars are 95 % Wilson "
        "intervals. Differences between models are judged on the same prompts, see “vs M1”.",
        alternative="Greedy accuracy per model: "
        + "; ".join(
            f"{one.name} " + ", ".join(f"{names[int(p.x)]} {percent(p.y)}" for p in one.points)
            for one in series
        ),
    )
    return point_figure(said, frame, series, references, joined=True)


def tasks(
    models: Sequence[ModelResult], baseline: Mapping[str, ConstantAnswer]
) -> PageSection | None:
    """Accuracy per task of one run; None if nothing was evaluated or there is one task only."""
    if not models or len(models[0].tasks) < 2:
        return None
    names = [row.model for row in models]
    figures = [_task(name, models, names, baseline.get(name)) for name in models[0].tasks]
    note = paragraph(
        "With few prompts per task these intervals are wide; read the shape, not single points.",
        "note",
    )
    body = join([note, tag("div", *figures, attributes={"class": "figures small"})])
    return PageSection("tasks", "Accuracy per task", body)


def _task(
    task: str,
    models: Sequence[ModelResult],
    names: Sequence[str],
    constant: ConstantAnswer | None,
) -> Html:
    points = [
        Point(float(place), o.accuracy, o.low, o.high, o.n)
        for place, row in enumerate(models)
        if (o := row.tasks.get(task)) is not None
    ]
    level = [] if constant is None else [constant.accuracy]
    top = max([p.high or p.y for p in points] + level)
    references = [Reference(f"always “{constant.answer}”", *level, *level)] if constant else []
    frame = Frame(category_axis("", names), percent_axis("accuracy, %", top), 300.0, 210.0)
    said = Words(
        task,
        f"{points[0].n} test prompts; 95 % Wilson intervals.",
        alternative=f"Accuracy on {task}: "
        + ", ".join(f"{names[int(p.x)]} {percent(p.y)}" for p in points),
    )
    return point_figure(said, frame, [Series(task, tuple(points))], references, joined=True)
