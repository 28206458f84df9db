"""HTML as a type of its own: what is not `Html` cannot get into the page unescaped.

A handful of functions instead of a template language. Style attributes do not exist here, because
the page's security policy forbids them.
"""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NewType

from cream.report.terminal import escaped

Html = NewType("Html", str)
"""Markup that is safe to insert. Made by `text`, `tag` and what is built on them."""

EMPTY = Html("")

_LINES = ("\n", "\t")
"""Control characters that a page lays out like other space."""


@dataclass(frozen=True, slots=True)
class PageSection:
    """A titled piece of the page. Pages are lists of these, so callers can add their own."""

    key: str
    """Its anchor: lower-case letters, digits and dashes, one of its kind on a page."""
    title: str
    body: Html


def text(value: object) -> Html:
    """Escape a value for use as content or attribute; control characters become visible."""
    shown = str(value)
    if not all(map(str.isprintable, shown.split("\n"))):
        shown = "".join(map(_picture, shown))
    return Html(html.escape(shown))


def _picture(character: str) -> str:
    if character in _LINES or escaped(character) == character:
        return character
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else f"⟨U+{code:04X}⟩"


def tag(name: str, *children: Html, attributes: Mapping[str, object] | None = None) -> Html:
    """Wrap children in an element; attribute values are escaped."""
    inside = "".join(f' {key}="{text(value)}"' for key, value in (attributes or {}).items())
    return Html(f"<{name}{inside}>{''.join(children)}</{name}>")


def join(parts: Iterable[Html]) -> Html:
    """Put pieces one after the other."""
    return Html("".join(parts))


def paragraph(value: str, kind: str = "") -> Html:
    """Escape one paragraph of text, with a class if `kind` says one."""
    return tag("p", text(value), attributes={"class": kind} if kind else None)


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, *, words: int = 1
) -> Html:
    """Lay texts out as a table that scrolls sideways where it does not fit.

    Args:
        head: Column titles.
        rows: Texts, escaped here.
        caption: What the table holds, with units.
        words: How many columns, from the left, are words; the others are aligned as numbers.
    """
    titles = join(
        tag("th", text(name), attributes={"scope": "col", "class": _align(place, words)})
        for place, name in enumerate(head)
    )
    body = join(
        tag("tr", *(_cell(cell, place, words) for place, cell in enumerate(row))) for row in rows
    )
    content = tag(
        "table",
        tag("thead", tag("tr", titles)),
        tag("tbody", body),
    )
    # A region that scrolls must be reachable by keyboard.
    named = {"class": "scroll", "tabindex": 0, "role": "region", "aria-label": caption}
    return join([paragraph(caption, "note caption"), tag("div", content, attributes=named)])


def _cell(value: str, place: int, words: int) -> Html:
    if place == 0:
        return tag("th", text(value), attributes={"scope": "row", "class": "word"})
    return tag("td", text(value), attributes={"class": _align(place, words)})


def _align(place: int, words: int) -> str:
    return "word" if place < words else "number"
