"""What some methods alone tell of themselves: goals, exploration, and edits."""

from __future__ import annotations

from collections.abc import Sequence

from cream.report.further_tables import edits_table, exploration_table, goal_table
from cream.report.markup import Html, PageSection, join, paragraph, tag
from cream.report.page.axes import Frame, axis_over, axis_within
from cream.report.page.figures import Point, Series, Words, line_figure
from cream.report.page.records import RunRecords
from cream.report.table import html
from cream.runs.reader import Curve


def goals(records: RunRecords) -> PageSection | None:
    """Margins under both goals over steps, and models under goals; None without goals."""
    names = ("goal/margin_high", "goal/margin_low", "goal/shift", "goal/logp_rejected_good")
    figures = _over_steps(records, "Margins under both goals", "margin", names[:3])
    figures += _over_steps(records, "Good rejected answers", "nats", names[3:])
    summary = records.summary
    if not figures and not summary.goals:
        return None
    explained = (
        "Under the high goal the chosen answer is to win, under the low goal the rejected one: the "
        "two margins part as far as the policy reads the goal (half their distance is its "
        "sensitivity), and their mean, the shift, is what a policy that does not read it would "
        "move. Rejected answers whose score is above the median should fall little."
    )
    parts = [paragraph(explained), tag("div", *figures, attributes={"class": "figures"})]
    if summary.goals:
        parts.append(html(goal_table(summary.goals, summary.models)))
    return PageSection("goals", "Goals", join(parts))


def exploration(records: RunRecords) -> PageSection | None:
    """The optimism term over steps, and what samples find; None without such a term."""
    figures = _over_steps(
        records,
        "Log-ratio of the answer that optimism lowers",
        "nats",
        ("optimism/log_ratio",),
    )
    figures += _over_steps(
        records,
        "Share of the optimism term",
        "share",
        ("optimism/share_of_loss", "optimism/is_chosen", "optimism/is_rejected"),
    )
    rows = records.summary.exploration
    if not figures and not rows:
        return None
    explained = (
        "The term lowers the likelihood of an answer that the policy gave before training. It is "
        "meant to help where that answer is wrong; where it is right, it costs."
    )
    parts = [paragraph(explained), tag("div", *figures, attributes={"class": "figures"})]
    if rows:
        parts.append(html(exploration_table(rows)))
    return PageSection("exploration", "Exploration", join(parts))


def _over_steps(records: RunRecords, title: str, unit: str, names: Sequence[str]) -> list[Html]:
    """A figure per iteration whose training has any of these metrics."""
    found = []
    for row in records.iterations:
        trained = records.run.sole("train", row.iteration)
        curve = trained.curve if trained is not None else ()
        series = [Series(name, _points(curve, name)) for name in names]
        series = [one for one in series if one.points]
        if series:
            found.append(
                _figure(f"Iteration {row.iteration}: {title.lower()}", unit, curve, series)
            )
    return found


def _points(curve: Curve, name: str) -> tuple[Point, ...]:
    return tuple(
        Point(float(line["step"]), float(line[name]))
        for line in curve
        if line.get(name) is not None
    )


def _figure(title: str, unit: str, curve: Curve, series: Sequence[Series]) -> Html:
    told = "; ".join(f"{one.name} ends at {one.points[-1].y:.3g}" for one in series)
    values = [point.y for one in series for point in one.points]
    steps = axis_within("step", float(curve[0]["step"]), float(curve[-1]["step"]))
    said = Words(title, f"Mean of each step; {told}.", alternative=f"{title}: {told}")
    return line_figure(said, Frame(steps, axis_over(unit, values, around=0.0)), series)


def edits(records: RunRecords) -> PageSection | None:
    """How many completions were edited, and how much of them; None without edits."""
    rows = records.summary.edits
    if not rows:
        return None
    explained = (
        "Wrong completions were edited until they were right. In the texts below what was replaced "
        "or new is coloured, token by token."
    )
    return PageSection("edits", "Edits", join([paragraph(explained), html(edits_table(rows))]))
