"""What a minimal edit changed: Levenshtein alignment, and its projection to token ids.

Texts are aligned by characters or words, never by ids: a change inside a word retokenises its
neighbours, which would then count as edited. `difflib` is not used because it is not minimal
(cab to aac takes it four operations, two are enough).

Source: Levenshtein 1966, unit costs. Of alignments with the fewest operations the one that keeps
most is taken, then the one that substitutes first, then the leftmost.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import accumulate, pairwise
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int32

Unit = Literal["char", "word"]
"""What is aligned: characters, or words, runs of spaces and single other signs."""
Blame = Literal["next", "none"]
"""Which original token answers for something that was only inserted: the one that stands where it
belongs, or none."""

MOST_CELLS = 2**26
"""Product of two lengths up to which texts are aligned: 256 MiB."""

_UNITS = re.compile(r"\s+|\w+|[^\w\s]")


class Span(NamedTuple):
    """Items ``[i0, i1)`` of the original became ``[j0, j1)`` of the edited text; one may be empty.

    Neighbouring spans have at least one kept item between them.
    """

    i0: int
    i1: int
    j0: int
    j1: int


def units(text: str, unit: Unit) -> list[str]:
    """What is aligned of a text; joined again they are the text."""
    return list(text) if unit == "char" else _UNITS.findall(text)


def distance(original: Sequence[str], edited: Sequence[str]) -> int:
    """Fewest insertions, deletions and substitutions of items that turn one into the other."""
    table, step = _costs(original, edited)
    return int(table[0, 0]) // step


def spans(original: Sequence[str], edited: Sequence[str]) -> tuple[Span, ...]:
    """What was changed, from left to right; empty for equal sequences.

    Needs 4 bytes for every pair of items that are not of a common end (see `MOST_CELLS`).
    """
    n, m = len(original), len(edited)
    table, step = _costs(original, edited)
    i = j = 0
    found: list[Span] = []
    while i < table.shape[0] - 1 or j < table.shape[1] - 1:
        left = table[i, j]
        down, right = i < table.shape[0] - 1, j < table.shape[1] - 1
        differs = down and right and original[i] != edited[j]
        if differs and left == table[i + 1, j + 1] + step + 1:
            change = (i + 1, j + 1)
        elif down and left == table[i + 1, j] + step:
            change = (i + 1, j)
        elif right and left == table[i, j + 1] + step:
            change = (i, j + 1)
        else:
            i, j = i + 1, j + 1
            continue
        if found and (found[-1].i1, found[-1].j1) == (i, j):
            found[-1] = Span(found[-1].i0, change[0], found[-1].j0, change[1])
        else:
            found.append(Span(i, change[0], j, change[1]))
        i, j = change
    assert n - i == m - j, "what is left is a common end"
    return tuple(found)


def text_spans(original: str, edited: str, unit: Unit = "char") -> tuple[Span, ...]:
    """The same in characters of the two texts, whatever was aligned."""
    before, after = units(original, unit), units(edited, unit)
    at, to = ([0, *accumulate(map(len, items))] for items in (before, after))
    return tuple(Span(at[s.i0], at[s.i1], to[s.j0], to[s.j1]) for s in spans(before, after))


def _costs(
    original: Sequence[str], edited: Sequence[str]
) -> tuple[Int32[np.ndarray, "rest rest_edited"], int]:
    """Cost of turning every rest of one into every rest of the other, and of one operation.

    A substitution costs one more than `step`, which is more than all such extras together: fewest
    operations come first, and of these the alignment that substitutes least and so keeps most. A
    common end is kept by every best alignment, so it is left out.
    """
    n, m = len(original), len(edited)
    while n and m and original[n - 1] == edited[m - 1]:
        n, m = n - 1, m - 1
    codes: dict[str, int] = {}
    before, after = (
        np.array([codes.setdefault(item, len(codes)) for item in items], np.int64)
        for items in (original[:n], edited[:m])
    )
    step = min(n, m) + 1
    table = np.empty((n + 1, m + 1), np.int32)
    inserted = step * np.arange(m, -1, -1, dtype=np.int64)
    table[n] = inserted
    for i in range(n - 1, -1, -1):
        below = table[i + 1].astype(np.int64)
        best = below + step
        substituted = below[1:] + np.where(before[i] == after, 0, step + 1)
        best[:-1] = np.minimum(best[:-1], substituted)
        # Insertions run along the row: the cheapest place to the right, and one step per item.
        table[i] = np.minimum.accumulate((best - inserted)[::-1])[::-1] + inserted
    return table, step


def token_offsets(
    token_ids: Sequence[int], text: str, decode: Callable[[Sequence[int]], str]
) -> tuple[tuple[int, int], ...]:
    """Characters ``[start, end)`` of `text` that each token stands for; empty for an end token.

    A token that holds a part of a character only stands for the whole of it. Where tokens are not
    decoded one by one to the same text (parts of characters, spaces that only stand between words),
    all beginnings of the sequence are decoded, which takes longer.

    Args:
        token_ids: All ids of the text, special ones included.
        text: `decode` of all of them.
        decode: Token ids to text without special tokens.
    """
    pieces = [decode([token]) for token in token_ids]
    if "".join(pieces) == text and "\ufffd" not in text:
        ends = [*accumulate(map(len, pieces))]
        return tuple(zip([0, *ends[:-1]], ends, strict=True))
    bounds = [_agreeing(decode(token_ids[:k]), text) for k in range(len(token_ids))]
    # A shorter prefix never reaches further; a decoder that revises its last character might.
    bounds = [*accumulate(bounds, max), len(text)]
    return tuple(
        (start, next((bound for bound in bounds[k + 1 :] if bound > start), start))
        for k, (start, _) in enumerate(pairwise(bounds))
    )


def _agreeing(prefix: str, text: str) -> int:
    if text.startswith(prefix):
        return len(prefix)
    return next(k for k, (a, b) in enumerate(zip(prefix, text, strict=False)) if a != b)


class TokenLabels(NamedTuple):
    """Which tokens an edit touched."""

    original: tuple[bool, ...]
    """Replaced or deleted."""
    edited: tuple[bool, ...]
    """New."""


def token_labels(
    changed: Sequence[Span],
    original: Sequence[tuple[int, int]],
    edited: Sequence[tuple[int, int]],
    *,
    insertion_blame: Blame,
) -> TokenLabels:
    """Spans of characters to labels of tokens: a token is touched if any of its characters is.

    Args:
        changed: From `text_spans`.
        original: From `token_offsets`, of the original.
        edited: The same of the edited text.
        insertion_blame: ``next``: of an insertion, the first token that ends after its place,
            which at the end of a text is the end token.
    """
    blamed = list(_touched(original, [(s.i0, s.i1) for s in changed]))
    for span in changed:
        if span.i0 == span.i1 and insertion_blame == "next":
            last = len(original) - 1
            after = (k for k, (_, end) in enumerate(original) if end > span.i0)
            blamed[next(after, last)] = True
    return TokenLabels(tuple(blamed), _touched(edited, [(s.j0, s.j1) for s in changed]))


def _touched(
    offsets: Sequence[tuple[int, int]], intervals: Sequence[tuple[int, int]]
) -> tuple[bool, ...]:
    return tuple(
        any(start < high and low < end for low, high in intervals) for start, end in offsets
    )
