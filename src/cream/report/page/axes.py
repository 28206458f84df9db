"""Scales, ticks and the frame of a figure, as SVG text.

Sizes are in the units of the figure's view box; colours and fonts are classes of ``page.css``, so
that light, dark and print need no second drawing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cream.report.markup import Html, tag, text

LEFT, RIGHT, TOP = 80.0, 16.0, 14.0
LINE = 14.0
"""Between the two lines of a tick's label."""
SERIES_CLASSES = 6
"""Colours of ``page.css``, each with its own marker."""


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis: its title with the unit, its range, its ticks."""

    title: str
    low: float
    high: float
    ticks: tuple[float, ...]
    labels: tuple[str, ...] = field(default=())
    """Texts of the ticks, a line break for a second line; empty: the numbers."""

    def place(self, value: float, start: float, end: float) -> float:
        """Where a value lies between two places of the view box, held inside them."""
        share = (value - self.low) / (self.high - self.low)
        return start + min(max(share, 0.0), 1.0) * (end - start)

    @property
    def tick_labels(self) -> tuple[str, ...]:
        """What stands at the ticks."""
        if self.labels:
            return self.labels
        digits = next(
            (d for d in range(7) if all(abs(round(t, d) - t) < 1e-9 for t in self.ticks)), 6
        )
        return tuple(f"{tick:.{digits}f}".replace("-", "−") for tick in self.ticks)


def axis_over(title: str, values: Sequence[float], *, around: float | None = None) -> Axis:
    """An axis with round ticks that covers `values`, and `around` too if it is given."""
    covered = [*values, *(() if around is None else (around,))] or [0.0, 1.0]
    low, high = min(covered), max(covered)
    if low == high:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    step = _round_step((high - low) / 4)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(round(n * step, 12) for n in range(first, last + 1))
    return Axis(title, ticks[0], ticks[-1], ticks)


def axis_within(title: str, low: float, high: float) -> Axis:
    """An axis that ends where the data end, with round ticks inside."""
    outer = axis_over(title, [low, high])
    ticks = tuple(tick for tick in outer.ticks if low <= tick <= high)
    return Axis(title, low, high, ticks) if low < high else outer


def _round_step(rough: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)


def percent_axis(title: str, highest: float) -> Axis:
    """Shares in per cent from 0 to a round number above `highest` (a share)."""
    top = next(t for t in (0.1, 0.2, 0.4, 0.6, 0.8, 1.0) if highest <= t or t == 1.0)
    ticks = tuple(top * n / 4 for n in range(5))
    digits = 1 if round(1000 * top / 4) % 10 else 0
    return Axis(title, 0.0, top, ticks, tuple(f"{100 * t:.{digits}f}" for t in ticks))


def category_axis(title: str, names: Sequence[str]) -> Axis:
    """One place per name, at 0, 1, 2, ...; every other name is left out where they are many."""
    every = max(1, math.ceil(len(names) / 10))
    labels = tuple(name if place % every == 0 else "" for place, name in enumerate(names))
    return Axis(title, -0.5, len(names) - 0.5, tuple(map(float, range(len(names)))), labels)


@dataclass(frozen=True, slots=True)
class Frame:
    """The drawing area of one figure: values to places, and the axes around it."""

    x: Axis
    y: Axis
    width: float = 400.0
    height: float = 270.0
    """Of the view box; text has the same size in every figure that is shown as wide as it is."""

    @property
    def right(self) -> float:
        """Right end of the x axis."""
        return self.width - RIGHT

    @property
    def bottom(self) -> float:
        """Height of the x axis, from the top."""
        return self.height - 12 - LINE * self._lines - (20 if self.x.title else 0)

    @property
    def _lines(self) -> int:
        return max((label.count("\n") + 1 for label in self.x.tick_labels), default=1)

    def across(self, value: float) -> float:
        """Horizontal place of an x value."""
        return self.x.place(value, LEFT, self.right)

    def up(self, value: float) -> float:
        """Vertical place of a y value."""
        return self.y.place(value, self.bottom, TOP)

    def axes(self) -> Html:
        """Grid, axes, ticks and titles."""
        bottom, right = self.bottom, self.right
        drawn: list[str] = []
        for tick, label in zip(self.y.ticks, self.y.tick_labels, strict=True):
            y = self.up(tick)
            drawn.append(line(LEFT, y, right, y, "grid"))
            drawn.append(words(LEFT - 8, y + 4, label, "end"))
        for tick, label in zip(self.x.ticks, self.x.tick_labels, strict=True):
            x = self.across(tick)
            drawn.append(line(x, bottom, x, bottom + 4, "axis"))
            for place, part in enumerate(label.split("\n")):
                drawn.append(words(x, bottom + 17 + LINE * place, part, "middle"))
        drawn.append(line(LEFT, bottom, right, bottom, "axis"))
        drawn.append(
            words((LEFT + right) / 2, self.height - 4, self.x.title, "middle", "axis-title")
        )
        middle = (TOP + bottom) / 2
        turned = {"class": "axis-title", "text-anchor": "middle", "x": 0, "y": 0}
        turned["transform"] = f"translate(14 {number(middle)}) rotate(-90)"
        drawn.append(tag("text", text(self.y.title), attributes=turned))
        return Html("".join(drawn))


def number(value: float) -> str:
    """A coordinate, to a tenth of a unit."""
    return f"{value:.1f}".removesuffix(".0")


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Html:
    """A straight line of a class."""
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    places = {name: number(value) for name, value in ends.items()}
    return tag("line", attributes={"class": kind, **places})


def words(x: float, y: float, content: str, anchor: str, kind: str = "tick") -> Html:
    """A short text, anchored at ``start``, ``middle`` or ``end``."""
    places = {"x": number(x), "y": number(y), "text-anchor": anchor}
    return tag("text", text(content), attributes={"class": kind, **places})


def _circle(x: float, y: float) -> str:
    return f"M{number(x - 4)} {number(y)}a4 4 0 1 0 8 0a4 4 0 1 0 -8 0z"


def _square(x: float, y: float) -> str:
    return f"M{number(x - 3.6)} {number(y - 3.6)}h7.2v7.2h-7.2z"


def _diamond(x: float, y: float) -> str:
    return f"M{number(x)} {number(y - 5)}l5 5l-5 5l-5 -5z"


def _triangle(x: float, y: float) -> str:
    return f"M{number(x)} {number(y - 4.8)}l4.8 8.6h-9.6z"


def _down(x: float, y: float) -> str:
    return f"M{number(x)} {number(y + 4.8)}l4.8 -8.6h-9.6z"


def _bar(x: float, y: float) -> str:
    return f"M{number(x - 5)} {number(y - 2.2)}h10v4.4h-10z"


_SHAPES: tuple[Callable[[float, float], str], ...] = (
    _circle,
    _square,
    _diamond,
    _triangle,
    _down,
    _bar,
)


def marker(x: float, y: float, series: int) -> Html:
    """The marker of a series; its shape tells series apart where colours do not."""
    place = series % SERIES_CLASSES
    return tag("path", attributes={"class": f"mark s{place}", "d": _SHAPES[place](x, y)})
