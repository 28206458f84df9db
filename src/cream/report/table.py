"""A table as data, and its three renderers: terminal, HTML page, Markdown card.

Cells are texts, some of them from models or data; each renderer makes them safe for its place. A
figure has one form everywhere: a share in per cent with a tenth, a difference in points with its
sign, an interval in brackets behind its estimate, and `ABSENT` for what there is not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rich.table import Table as TerminalTable
from rich.text import Text

from cream.records import Share
from cream.report import markup
from cream.report.markup import Html
from cream.report.summary import Difference
from cream.report.terminal import printable, readable

ABSENT = "–"
_MINUS = re.compile(r"(?<![\w.])-(?=[\d.])")


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of texts under column titles."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: str = ""
    """What the columns mean: units, intervals, n."""
    words: int = 1
    """How many columns, from the left, are words; the others are figures."""
    whole: bool = False
    """Whether figures stay on one line in a narrow terminal, where words give way alone."""
    muted: tuple[int, ...] = ()
    """Numbers of rows that are there to compare with, such as a baseline or a sum."""


def terminal(table: Table) -> TerminalTable:
    """For a terminal; where it is narrow cells go over several lines."""
    drawn = TerminalTable(
        title=Text(printable(table.title)),
        title_justify="left",
        caption=Text(readable(table.notes)) if table.notes else None,
        caption_justify="left",
        show_edge=False,
        pad_edge=False,
    )
    for place, name in enumerate(table.columns):
        if place < table.words:
            least = None if place else min(8, max(map(len, (name, *(r[0] for r in table.rows)))))
            drawn.add_column(Text(printable(name)), overflow="fold", min_width=least)
        else:
            drawn.add_column(Text(printable(name)), justify="right", no_wrap=table.whole)
    for number, row in enumerate(table.rows):
        cells = (Text(printable(cell)) for cell in row)
        drawn.add_row(*cells, style="dim" if number in table.muted else None)
    return drawn


def html(table: Table) -> Html:
    """For the page: a table that scrolls sideways where it does not fit, under its title."""
    caption = f"{table.title}. {table.notes}" if table.notes else table.title
    rows = [
        [_MINUS.sub("−", cell) if place >= table.words else cell for place, cell in enumerate(row)]
        for row in table.rows
    ]
    return markup.table(table.columns, rows, caption[:1].upper() + caption[1:], words=table.words)


def markdown(table: Table) -> str:
    """For a card: the rows, then the notes."""
    ruler = ["---" if place < table.words else "---:" for place in range(len(table.columns))]
    lines = [" | ".join(map(_escaped, row)) for row in (table.columns, *table.rows)]
    lines.insert(1, " | ".join(ruler))
    rows = "\n".join(f"| {line} |" for line in lines)
    return f"{rows}\n\n{table.notes}\n" if table.notes else f"{rows}\n"


def _escaped(cell: str) -> str:
    return printable(cell).replace("|", "\\|")


def percent(share: float | None) -> str:
    """A share in per cent, to a tenth."""
    return ABSENT if share is None else f"{100 * share:.1f} %"


def points(difference: Difference | None) -> str:
    """A difference of shares in points, with its interval."""
    if difference is None:
        return ABSENT
    estimate, low, high = (
        signed(100 * value) for value in (difference.difference, difference.low, difference.high)
    )
    return f"{estimate} [{low}, {high}]"


def signed(value: float, digits: int = 1) -> str:
    """A number with its sign, rounded; no minus before zero."""
    return f"{round(value, digits) + 0.0:+.{digits}f}"


def figure(value: float | None, form: str) -> str:
    """A number in a format, or `ABSENT`."""
    return ABSENT if value is None else format(value, form)


def within(estimate: float | None, low: float | None, high: float | None) -> str:
    """A share in per cent with its interval."""
    if estimate is None or low is None or high is None:
        return ABSENT
    return f"{100 * estimate:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def share(found: Share) -> str:
    """A share with its interval and the number of items behind it."""
    if found.share is None:
        return ABSENT
    return f"{within(found.share, found.low, found.high)} of {found.n}"
