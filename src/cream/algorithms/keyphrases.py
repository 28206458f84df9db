"""Key phrases of a text (RAKE), and versions of it with growing amounts of them removed.

Text in, character spans and texts out; no model. Phrases are removed by their place, so that
another occurrence of the same words stays. Not linguistics: English stop words, no stemming.

Sources: RAKE, Rose et al., "Automatic keyword extraction from individual documents" (2010), from
memory; graded removal, Li et al., SPO (arXiv 2409.17791), of which only the abstract could be read.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from jaxtyping import Float64, Int64

# fmt: off
ENGLISH = frozenset((
    "a", "about", "above", "after", "again", "against", "all", "also", "am", "an", "and", "any",
    "are", "as", "at", "be", "because", "been", "before", "being", "below", "between", "both",
    "but", "by", "can", "could", "did", "do", "does", "doing", "down", "during", "each", "few",
    "for", "from", "further", "had", "has", "have", "having", "he", "her", "here", "hers",
    "herself", "him", "himself", "his", "how", "i", "if", "in", "into", "is", "it", "its", "itself",
    "just", "may", "me", "might", "more", "most", "must", "my", "myself", "no", "nor", "not", "now",
    "of", "off", "on", "once", "only", "or", "other", "our", "ours", "ourselves", "out", "over",
    "own", "same", "shall", "she", "should", "so", "some", "such", "than", "that", "the", "their",
    "theirs", "them", "themselves", "then", "there", "these", "they", "this", "those", "through",
    "to", "too", "under", "until", "up", "very", "was", "we", "were", "what", "when", "where",
    "which", "while", "who", "whom", "why", "will", "with", "would", "you", "your", "yours",
    "yourself", "yourselves",
))
# fmt: on
"""Words that no key phrase holds, lower case."""

_WORD = re.compile(r"\d+(?:[.,]\d+)+|\w+(?:['’\-]\w+)*")
_BLANKS = re.compile(r"[^\S\n]+")


@dataclass(frozen=True, slots=True)
class Phrase:
    """Words between stop words and punctuation, at their place."""

    start: int
    end: int
    """One past the last character."""
    score: float
    """Sum over its words of degree / frequency, > 0."""


def words_of(text: str) -> list[tuple[int, int]]:
    """Spans of the words of a text; a number with a point or comma inside is one word."""
    return [match.span() for match in _WORD.finditer(text)]


def key_phrases(text: str, stop_words: Set[str] = ENGLISH) -> list[Phrase]:
    """Candidate phrases of a text, best first, equal ones in the order of the text.

    A candidate is a longest run of words that holds no stop word and only blanks (no line break)
    between them. With freq(w) its occurrences and deg(w) the summed length in words of the
    candidates that hold it, the score of a candidate is the sum of deg / freq over its words.

    Args:
        text: Any text.
        stop_words: Lower case.
    """
    runs: list[list[tuple[int, int]]] = []
    end = None
    for start, stop in words_of(text):
        if text[start:stop].lower() in stop_words:
            end = None
            continue
        between = text[end:start] if end is not None else "."
        if between.strip() or "\n" in between:
            runs.append([])
        runs[-1].append((start, stop))
        end = stop
    named = [[text[a:b].lower() for a, b in run] for run in runs]
    frequency = Counter(word for run in named for word in run)
    degree: Counter[str] = Counter()
    for run in named:
        for word in run:
            degree[word] += len(run)
    found = [
        Phrase(run[0][0], run[-1][1], sum(degree[w] / frequency[w] for w in words))
        for run, words in zip(runs, named, strict=True)
    ]
    return sorted(found, key=lambda phrase: (-phrase.score, phrase.start))


def removed_counts(phrases: int, *, degrees: int, ceiling: float) -> tuple[int, ...]:
    """How many phrases each degree removes: ``ceil(ceiling * n * k / (K - 1))``, k = 0 .. K - 1.

    In exact rationals: in floats 0.55 * 20 is 11.000000000000002, and its ceiling 12.

    Args:
        phrases: n >= 0.
        degrees: K >= 2.
        ceiling: Share of the phrases that the last degree removes, in (0, 1], as it is written.
    """
    share = Fraction(repr(ceiling)) * phrases / (degrees - 1)
    return tuple(math.ceil(share * k) for k in range(degrees))


def without(text: str, spans: Sequence[tuple[int, int]], *, filler: str | None = None) -> str:
    """The text without the words of these spans, or with each of their words replaced.

    Removed by place; blanks that then meet become one, and those at the ends go. With a filler the
    number of words stays, and with it what else the text is made of.

    Args:
        text: Any text.
        spans: Character spans that do not overlap.
        filler: What stands for a removed word; None: nothing.
    """
    pieces, end = [], 0
    for start, stop in sorted(spans):
        inside = text[start:stop]
        pieces += [text[end:start], "" if filler is None else _WORD.sub(lambda _: filler, inside)]
        end = stop
    left = "".join([*pieces, text[end:]])
    return left if filler is not None else _BLANKS.sub(" ", left).strip()


def length_rule_accuracy(
    lengths: Int64[np.ndarray, " text"], degrees: Int64[np.ndarray, " text"]
) -> float:
    """How often the degree of a text is told from its length alone, in [0, 1].

    Each text is given the degree whose other texts have the nearest mean length; degrees that are
    equally near share it. The baseline of every figure about degrees: deletion shortens.

    Args:
        lengths: Tokens.
        degrees: Labels; every one must occur twice at least.

    Raises:
        ValueError: A degree occurs once only.
    """
    labels = np.unique(degrees)
    member = degrees[:, None] == labels
    counts = member.sum(axis=0)
    if (counts < 2).any():
        raise ValueError("a length rule needs two texts of every degree")
    own = lengths[:, None] * member
    means: Float64[np.ndarray, "text degree"] = (own.sum(axis=0) - own) / (counts - member)
    distance = np.abs(means - lengths[:, None])
    nearest = np.isclose(distance, distance.min(axis=1, keepdims=True))
    return float(
        (nearest & member).sum(axis=1).astype(float).dot(1 / nearest.sum(axis=1)) / len(lengths)
    )
