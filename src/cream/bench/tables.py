"""The result of a benchmark as a table on the terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from cream.bench.load import LIMIT_CORES
from cream.bench.results import Document, Point, Row


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


def _rows(rows: list[Row]) -> Table:
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


def _points(points: list[Point]) -> Table:
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


def _first_of_each(rows: list[Row]) -> list[Row]:
    return list({row.name: row for row in reversed(rows)}.values())[::-1]


def _floor(document: Document) -> str:
    assert document.floor is not None
    products = ", ".join(
        f"{p.dtype} {p.rows}x{p.inner}x{p.columns} {p.flops_per_second / 1e12:.2f}"
        for p in document.floor.products
    )
    copy = document.floor.copy_bytes_per_second / 1e9
    return f"floor: matrix products, TFLOP/s: {products}; copy {copy:.1f} GB/s"
