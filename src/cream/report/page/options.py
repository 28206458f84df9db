"""What options of the objective added to the pairs, and how their own metrics went in training."""

from __future__ import annotations

from collections.abc import Sequence

from cream.records import ADDED
from cream.report.markup import Html, PageSection, join, paragraph, tag
from cream.report.page.axes import Frame, axis_over, axis_within
from cream.report.page.figures import Point, Reference, Series, Words, line_figure
from cream.report.page.records import RunRecords
from cream.report.summary import OptionSummary, TransformSummary
from cream.report.table import Table, figure, html
from cream.runs.reader import Curve
from cream.types import counts

DRAWN = ("degree/accuracy", "scir/agreement", "scir/divergence")
"""Metrics worth a curve of their own; all are in the table."""
OTHERS = ("rewards", "logps", "grad_norm")
"""Families of metrics that every preference training has."""


def options(records: RunRecords) -> PageSection | None:
    """Per iteration what options added and their metrics; None where the objective has none."""
    parts: list[Html] = []
    figures: list[Html] = []
    for row in records.iterations:
        made = records.run.sole("transform", row.iteration)
        found = made.summary(TransformSummary).options if made is not None else {}
        trained = records.run.sole("train", row.iteration)
        curve = trained.curve if trained is not None else ()
        if found:
            parts.append(html(_added(row.iteration, found)))
        if curve and (names := _names(curve)):
            parts.append(html(_metrics(row.iteration, curve, names)))
            figures += [_drawn(row.iteration, curve, n, found) for n in DRAWN if n in names]
    if not parts:
        return None
    if figures:
        parts.append(tag("div", *figures, attributes={"class": "figures"}))
    said = (
        "A figure about degrees is read beside the length rule, one about agreement beside both "
        "right and both wrong: either can rise without anything being learnt."
    )
    return PageSection("options", "Options of the objective", join([paragraph(said), *parts]))


def _names(curve: Curve) -> list[str]:
    found = dict.fromkeys(name for line in curve for name in line if "/" in name)
    return [name for name in found if name.split("/")[0] not in OTHERS]


def _added(t: int, found: dict[str, OptionSummary]) -> Table:
    rows = tuple(
        (
            name,
            f"{one.tally.parts.get(ADDED, 0):,} of {one.tally.total:,}",
            counts(one.tally.parts, without=(ADDED,)) or "none",
            ", ".join(f"{key} {figure(value, '.3g')}" for key, value in one.figures.items()),
        )
        for name, one in found.items()
    )
    columns = ("option", "pairs with it", "without, by reason", "figures")
    return Table(f"Iteration {t}: what options added to the pairs", columns, rows, words=4)


def _metrics(t: int, curve: Curve, names: Sequence[str]) -> Table:
    third = max(1, len(curve) // 3)
    rows = tuple(
        (name, *(figure(_mean(part, name), ".3g") for part in (curve[:third], curve[-third:])))
        for name in names
    )
    title = f"Iteration {t}: metrics of the objective"
    return Table(title, ("metric", "first third", "last third"), rows, "means over steps")


def _mean(lines: Curve, name: str) -> float | None:
    found = [line[name] for line in lines if line.get(name) is not None]
    return sum(found) / len(found) if found else None


def _drawn(t: int, curve: Curve, name: str, found: dict[str, OptionSummary]) -> Html:
    points = tuple(
        Point(float(line["step"]), float(line[name]))
        for line in curve
        if line.get(name) is not None
    )
    told = found.get(name.split("/")[0])
    levels = [
        Reference(f"{label} {value:.2f}", value, value)
        for key, label in (("length_only", "length rule"), ("chance", "chance"))
        if told is not None
        and name == "degree/accuracy"
        and (value := told.figures.get(key)) is not None
    ]
    ys = [p.y for p in points]
    step = axis_within("step", float(curve[0]["step"]), float(curve[-1]["step"]))
    title = f"Iteration {t}: {name}"
    spoken = f"{name} from {ys[0]:.3g} to {ys[-1]:.3g} over {len(curve)} steps"
    said = Words(title, f"First {ys[0]:.3g}, last {ys[-1]:.3g}.", alternative=f"{title}: {spoken}")
    covered = [*ys, *(level.start for level in levels)]
    return line_figure(said, Frame(step, axis_over(name, covered)), [Series(name, points)], levels)
