"""The page's five kinds of figure: points with intervals, lines, histogram, bars, and a frame.

Each takes plain data and gives a ``<figure>`` with title, legend, a sentence for those who cannot
see it, and the numbers as a table behind a disclosure. Series differ by colour (Okabe and Ito's
palette, told apart by people with any common colour blindness) and by marker or dash.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cream.report.markup import EMPTY, Html, join, paragraph, table, tag, text
from cream.report.page.axes import (
    LEFT,
    SERIES_CLASSES,
    TOP,
    Axis,
    Frame,
    line,
    marker,
    number,
    words,
)

STACK_WIDTH = 400.0
"""Of the view box of `stack_figure`, whose height follows from its rows."""


@dataclass(frozen=True, slots=True)
class Point:
    """A value at a place, with its interval and the number of items behind it."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None
    n: int | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """Points under one name."""

    name: str
    points: tuple[Point, ...]


@dataclass(frozen=True, slots=True)
class Reference:
    """A straight line to compare with, from one end of the x axis to the other."""

    name: str
    start: float
    end: float
    """Its heights at the left and at the right end; equal for a level."""


@dataclass(frozen=True, slots=True)
class Words:
    """What a figure says in words."""

    title: str
    note: str = ""
    """Under the figure: units, n, how intervals were made."""
    alternative: str = ""
    """What the figure shows, in a sentence, for those who cannot see it; else title and note."""


def point_figure(
    said: Words,
    frame: Frame,
    series: Sequence[Series],
    references: Sequence[Reference] = (),
    *,
    joined: bool = False,
) -> Html:
    """Points with intervals, several series side by side at each place."""
    drawn = [frame.axes(), *(_reference(frame, r) for r in references)]
    gap = min(14.0, 60.0 / max(len(series), 1))
    for place, one in enumerate(series):
        shift = (place - (len(series) - 1) / 2) * gap
        if joined and len(one.points) > 1:
            drawn.append(_path(frame, one.points, place, shift, thin=True))
        for point in one.points:
            x = frame.across(point.x) + shift
            if point.low is not None and point.high is not None:
                drawn.append(_interval(frame, x, point.low, point.high, place))
            drawn.append(marker(x, frame.up(point.y), place))
    return _figure(said, drawn, _legend(series, references), _numbers(frame, series), _size(frame))


def line_figure(
    said: Words, frame: Frame, series: Sequence[Series], references: Sequence[Reference] = ()
) -> Html:
    """Lines over a numeric axis, such as losses over steps."""
    drawn = [frame.axes(), *(_reference(frame, r) for r in references)]
    for place, one in enumerate(series):
        if len(one.points) == 1:
            drawn.append(marker(frame.across(one.points[0].x), frame.up(one.points[0].y), place))
        else:
            drawn.append(_path(frame, one.points, place, 0.0, thin=False))
    return _figure(said, drawn, _legend(series, references), _numbers(frame, series), _size(frame))


def histogram_figure(
    said: Words,
    frame: Frame,
    edges: Sequence[float],
    counts: Sequence[int],
    rule: tuple[str, float] | None = None,
) -> Html:
    """Counts between edges, with one vertical line if `rule` names it and gives its place."""
    drawn = [frame.axes()]
    for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True):
        left, right, top = frame.across(low), frame.across(high), frame.up(float(count))
        box = {"x": left + 0.75, "y": top, "width": right - left - 1.5}
        box["height"] = frame.bottom - top
        places = {name: number(value) for name, value in box.items()}
        drawn.append(tag("rect", attributes={"class": "bar s0", **places}))
    if rule is not None:
        x = frame.across(rule[1])
        drawn.append(line(x, TOP, x, frame.bottom, "reference"))
        side = "end" if x > frame.width / 2 else "start"
        drawn.append(words(x + (-6 if side == "end" else 6), TOP + 10, rule[0], side, "label"))
    rows = [
        [f"{low:g} to {high:g}", str(count)]
        for low, high, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
    numbers = _behind(table([frame.x.title, frame.y.title], rows, said.title))
    return _figure(said, drawn, EMPTY, numbers, _size(frame))


def stack_figure(
    said: Words, rows: Sequence[tuple[str, dict[str, int]]], names: Sequence[str]
) -> Html:
    """One horizontal bar per row, divided into named counts; each bar is its row's total."""
    height = 40.0 * len(rows) + 10
    drawn = []
    for place, (label, counts) in enumerate(rows):
        total, x, y = max(1, sum(counts.values())), 100.0, 10 + 40.0 * place
        drawn.append(words(92.0, y + 18, label, "end"))
        for kind, name in enumerate(names):
            width = counts.get(name, 0) / total * (STACK_WIDTH - 110)
            if width > 0:
                box = {"x": x, "y": y, "width": max(width - 1, 0.5), "height": 28.0}
                places = {key: number(value) for key, value in box.items()}
                drawn.append(
                    tag(
                        "rect",
                        tag("title", text(f"{name}: {counts[name]} of {total}")),
                        attributes={"class": f"bar s{kind % SERIES_CLASSES}", **places},
                    )
                )
                if width > 30:
                    drawn.append(words(x + width / 2, y + 18, str(counts[name]), "middle", "inbar"))
            x += width
    series = [Series(name, ()) for name in names]
    body = [[label, *(str(counts.get(name, 0)) for name in names)] for label, counts in rows]
    numbers = _behind(table(["", *names], body, said.title))
    return _figure(said, drawn, _legend(series, ()), numbers, (STACK_WIDTH, height))


def _size(frame: Frame) -> tuple[float, float]:
    return frame.width, frame.height


def _interval(frame: Frame, x: float, low: float, high: float, series: int) -> Html:
    bottom, top = frame.up(low), frame.up(high)
    kind = f"whisker s{series % SERIES_CLASSES}"
    ends = [line(x - 4, y, x + 4, y, kind) for y in (bottom, top)]
    return join([line(x, bottom, x, top, kind), *ends])


def _path(frame: Frame, points: Sequence[Point], series: int, shift: float, *, thin: bool) -> Html:
    places = [f"{number(frame.across(p.x) + shift)} {number(frame.up(p.y))}" for p in points]
    kind = f"{'thin' if thin else 'curve'} s{series % SERIES_CLASSES}"
    return tag("path", attributes={"class": kind, "d": "M" + "L".join(places)})


def _reference(frame: Frame, reference: Reference) -> Html:
    start, end = frame.up(reference.start), frame.up(reference.end)
    return line(LEFT, start, frame.right, end, "reference")


def _legend(series: Sequence[Series], references: Sequence[Reference]) -> Html:
    if len(series) < 2 and not references:
        return EMPTY
    named = [
        tag("li", _key(_sample(place)), text(one.name))
        for place, one in enumerate(series)
        if len(series) > 1
    ]
    named += [
        tag("li", _key(line(1.0, 7.0, 19.0, 7.0, "reference")), text(r.name)) for r in references
    ]
    return tag("ul", *named, attributes={"class": "legend"})


def _sample(series: int) -> Html:
    """The piece of line and the marker that stand for a series in a legend."""
    return join(
        [line(1.0, 7.0, 19.0, 7.0, f"thin s{series % SERIES_CLASSES}"), marker(10.0, 7.0, series)]
    )


def _key(drawn: Html) -> Html:
    return tag("svg", drawn, attributes={"viewBox": "0 0 20 14", "aria-hidden": "true"})


def _numbers(frame: Frame, series: Sequence[Series]) -> Html:
    """The points as a table; of long curves, at most some forty points evenly."""
    rows = []
    for one in series:
        every = max(1, len(one.points) // 40)
        kept = [p for i, p in enumerate(one.points) if i % every == 0 or i == len(one.points) - 1]
        rows += [[one.name, _x_name(frame.x, p.x), *_figures(p)] for p in kept]
    head = ["series", frame.x.title or "x", frame.y.title, "95 % interval", "n"]
    return _behind(table(head, rows, "The figure's numbers", words=2))


def _x_name(axis: Axis, x: float) -> str:
    return dict(zip(axis.ticks, axis.labels, strict=False)).get(x) or f"{x:g}"


def _figures(point: Point) -> list[str]:
    bounds = ""
    if point.low is not None and point.high is not None:
        bounds = f"{point.low:.4g} to {point.high:.4g}"
    return [f"{point.y:.4g}", bounds, "" if point.n is None else str(point.n)]


def _behind(numbers: Html) -> Html:
    return tag("details", tag("summary", text("Numbers")), numbers, attributes={"class": "numbers"})


def _figure(
    said: Words, drawn: Sequence[Html], legend: Html, numbers: Html, size: tuple[float, float]
) -> Html:
    described = said.alternative or f"{said.title}. {said.note}"
    picture = tag(
        "svg",
        *drawn,
        attributes={
            "viewBox": f"0 0 {size[0]:g} {size[1]:g}",
            "role": "img",
            "aria-label": described,
        },
    )
    note = paragraph(said.note, "note") if said.note else EMPTY
    caption = tag("figcaption", tag("strong", text(said.title)), note)
    return tag("figure", caption, legend, picture, numbers)
