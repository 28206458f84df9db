"""The result of a benchmark as one SVG: a bar per comparison, on a logarithmic axis.

Written by hand: a few rectangles need no plotting library.
"""

from __future__ import annotations

import math
from html import escape

from cream.bench.load import LIMIT_CORES
from cream.bench.results import Document, Row

WIDTH, LABEL, ROW, TOP = 960, 470, 30, 64
BAR, MARK = "#2563a8", "#1a1a1a"


def draw_figure(document: Document) -> str:
    """Draw how many times faster (or smaller) ours is in each row; 1 is equal.

    The thin line is the range over the rounds. Rows of memory show theirs / ours, so that longer is
    better everywhere.
    """
    bars = [advantage(row) for row in document.rows]
    low = min([0.8, *(bar[1] for bar in bars)])
    high = max([2.0, *(bar[2] for bar in bars)]) * 1.1
    scale = _Scale(low, high)
    height = TOP + ROW * len(bars) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" '
        'font-family="sans-serif" font-size="13">',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        _text(12, 24, "Times better than the baseline (median; line: range over rounds)"),
        _text(12, 44, _machine(document), size=11),
        *_axis(scale, height),
    ]
    for index, (row, bar) in enumerate(zip(document.rows, bars, strict=True)):
        parts += _bar(scale, TOP + ROW * index, row, bar)
    return "\n".join([*parts, "</svg>"]) + "\n"


def advantage(row: Row) -> tuple[float, float, float]:
    """How many times better ours is: middle, lowest, highest."""
    if row.better == "higher":
        return row.ratio, row.low, row.high
    return 1 / row.ratio, 1 / row.high, 1 / row.low


class _Scale:
    """Places on the logarithmic axis."""

    def __init__(self, low: float, high: float) -> None:
        self.low, self.high = low, high

    def x(self, value: float | int) -> float:
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return LABEL + share * (WIDTH - LABEL - 90)


def _axis(scale: _Scale, height: int) -> list[str]:
    parts = []
    for tick in (0.25, 0.5, 1, 2, 4, 8, 16, 32, 64):
        if scale.low <= tick <= scale.high:
            x, colour = scale.x(tick), "#444" if tick == 1 else "#ddd"
            parts.append(
                f'<line x1="{x:.1f}" y1="{TOP - 8}" x2="{x:.1f}" y2="{height - 30}" '
                f'stroke="{colour}"/>'
            )
            parts.append(_text(x - 6, height - 12, f"{tick:g}"))
    return parts


def _bar(scale: _Scale, y: int, row: Row, bar: tuple[float, float, float]) -> list[str]:
    middle, low, high = (scale.x(value) for value in bar)
    left, right = sorted((scale.x(1), middle))
    return [
        _text(12, y + 17, f"{row.name}, against {row.baseline}", size=12),
        f'<rect x="{left:.1f}" y="{y + 5}" width="{right - left:.1f}" height="16" fill="{BAR}"/>',
        f'<line x1="{low:.1f}" y1="{y + 13}" x2="{high:.1f}" y2="{y + 13}" stroke="{MARK}"/>',
        _text(max(high, right) + 8, y + 17, f"{bar[0]:.2f}x"),
    ]


def _machine(document: Document) -> str:
    machine = document.machine
    text = f"{machine['cpu']}, {machine['threads']} threads, {machine['device']}"
    loaded = any((row.foreign_cores or 0) > LIMIT_CORES for row in document.rows)
    return text + (" - MACHINE WAS LOADED, NO FIGURES" if loaded else "")


def _text(x: float | int, y: float | int, text: str, *, size: int = 13) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}">{escape(text)}</text>'
