"""What one run of the benchmark found: a document, as JSON, as a table, and as a figure.

The figure is written by hand: a few rectangles need no plotting library.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from html import escape
from typing import Any

from rich.console import Console
from rich.table import Table

from cream.bench.contest import ContestRow
from cream.bench.floors import FORMULA, Floor
from cream.bench.machine import LIMIT_CORES


@dataclass(frozen=True, slots=True)
class TimedPoint:
    """Our own figure at one value of what is varied."""

    curve: str
    x: float
    x_name: str
    value: float
    unit: str
    n: int
    floor_share: float | None
    foreign_cores: float | None = None


@dataclass(slots=True)
class Document:
    """Everything one run of the benchmark found."""

    command: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    floor: Floor | None = None
    rows: list[ContestRow] = field(default_factory=list)
    points: list[TimedPoint] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    """Seconds per stage of a whole run of the recipe."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Contestants or cases that were left out, each with the reason."""
    complete: bool = False
    """False if the run ended early; what was measured until then is here."""

    def as_json(self) -> dict[str, Any]:
        """JSON values, described by ``schemas/bench.json``."""
        floor = None if self.floor is None else {"formula": FORMULA, **asdict(self.floor)}
        rows = [{**asdict(row), "command": self.command} for row in self.rows]
        return {
            "command": self.command,
            "complete": self.complete,
            "machine": self.machine,
            "settings": self.settings,
            "floor": None if floor is None else {**floor, "products": list(floor["products"])},
            "rows": [{**row, "notes": list(row["notes"])} for row in rows],
            "points": [asdict(point) for point in self.points],
            "stages": self.stages,
            "skipped": self.skipped,
        }


def print_document(console: Console, document: Document) -> None:
    """Print rows, the floor, what was left out, and what a reader must know."""
    machine = document.machine
    console.print(
        f"{machine['cpu']}, {machine['threads']} threads, device {machine['device']}, torch "
        f"{machine['packages']['torch']}",
        markup=False,
    )
    if document.rows:
        console.print(_rows(document.rows))
        console.print(
            "ours and theirs: medians; ratio: of the medians, with the smallest and largest ratio "
            "of a round; floor: least possible time over ours",
            style="dim",
        )
        for row in _first_of_each(document.rows):
            console.print(f"{row.name}: {'; '.join(row.notes)}", style="dim", markup=False)
    if document.points:
        console.print(_points(document.points))
    for entry in document.stages:
        console.print(f"{entry['stage']}: {entry['seconds']:.1f} s", markup=False)
    if document.floor is not None:
        console.print(_floor(document), markup=False)
    for entry in document.skipped:
        console.print(f"left out: {entry['name']} ({entry['reason']})", markup=False)
    if any((row.foreign_cores or 0) > LIMIT_CORES for row in document.rows):
        console.print("LOADED MACHINE: other processes used the cores; these are no figures")
    if not document.complete:
        console.print("this run ended early")


def _rows(rows: list[ContestRow]) -> Table:
    table = Table()
    table.add_column("case")
    table.add_column("against")
    for name in ("ours", "theirs", "unit", "ratio", "n", "floor", "foreign cores"):
        table.add_column(name, justify="right")
    for row in rows:
        table.add_row(
            row.name,
            row.baseline,
            f"{row.ours:,.4g}" if row.ours < 1000 else f"{row.ours:,.0f}",
            f"{row.theirs:,.4g}" if row.theirs < 1000 else f"{row.theirs:,.0f}",
            row.unit,
            f"{row.ratio:.2f} [{row.low:.2f}, {row.high:.2f}]",
            str(row.n),
            "" if row.floor_share is None else f"{row.floor_share:.0%}",
            "unknown" if row.foreign_cores is None else f"{row.foreign_cores:.2f}",
        )
    return table


def _points(points: list[TimedPoint]) -> Table:
    table = Table()
    table.add_column("ours")
    for name in ("over", "value", "cost", "unit", "n", "floor", "foreign cores"):
        table.add_column(name, justify="right")
    for point in points:
        table.add_row(
            point.curve,
            point.x_name,
            f"{point.x:,g}",
            f"{point.value:.4g}",
            point.unit,
            str(point.n),
            "" if point.floor_share is None else f"{point.floor_share:.0%}",
            "unknown" if point.foreign_cores is None else f"{point.foreign_cores:.2f}",
        )
    return table


def _first_of_each(rows: list[ContestRow]) -> list[ContestRow]:
    return list({row.name: row for row in reversed(rows)}.values())[::-1]


def _floor(document: Document) -> str:
    assert document.floor is not None
    products = ", ".join(
        f"{p.dtype} {p.rows}x{p.inner}x{p.columns} {p.flops_per_second / 1e12:.2f}"
        for p in document.floor.products
    )
    copy = document.floor.copy_bytes_per_second / 1e9
    return f"floor: matrix products, TFLOP/s: {products}; copy {copy:.1f} GB/s"


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


def advantage(row: ContestRow) -> tuple[float, float, float]:
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


def _bar(scale: _Scale, y: int, row: ContestRow, bar: tuple[float, float, float]) -> list[str]:
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
