"""How good a ranking of judged candidates is: nDCG, reciprocal rank, pairs in the right order.

One query at a time; who averages says over which. Grades are those of the judgements, 0 where a
candidate was not judged, as ``trec_eval`` has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int64

from cream.algorithms.statistics import Absent


def ndcg(ranked: Sequence[float], judged: Sequence[float], *, depth: int = 10) -> float | Absent:
    """Normalised discounted cumulative gain at a depth, in [0, 1].

    The gain of a candidate is its grade (``trec_eval``, not 2^grade - 1), discounted by
    log2(rank + 1); the best possible order is of everything judged, whether it was ranked or not.

    Args:
        ranked: Grades in the order of the ranking.
        judged: Grades of all judged candidates of the query, in any order.
        depth: Ranks that count.

    Source:
        Järvelin and Kekäläinen 2002.
    """
    best = _gain(sorted(judged, reverse=True)[:depth])
    return _gain(ranked[:depth]) / best if best > 0 else Absent.ONE_CLASS


def _gain(grades: Sequence[float]) -> float:
    return sum(max(0.0, g) / np.log2(rank + 1) for rank, g in enumerate(grades, start=1))


def reciprocal_rank(
    ranked: Sequence[float], judged: Sequence[float], *, relevant: float = 1.0, depth: int = 10
) -> float | Absent:
    """1 / rank of the first candidate of grade `relevant` or more, 0 if none is within `depth`."""
    if not any(grade >= relevant for grade in judged):
        return Absent.ONE_CLASS
    for rank, grade in enumerate(ranked[:depth], start=1):
        if grade >= relevant:
            return 1 / rank
    return 0.0


@dataclass(frozen=True, slots=True)
class OrderedPairs:
    """Pairs of unequal grades of one query, and how many a score has in the right order."""

    right: float
    """A tied score counts one half."""
    total: int

    @property
    def share(self) -> float | Absent:
        """Share in the right order, in [0, 1]."""
        return self.right / self.total if self.total else Absent.ONE_CLASS


def ordered_pairs(
    scores: Float64[np.ndarray, " candidate"],
    grades: Float64[np.ndarray, " candidate"],
    windows: Int64[np.ndarray, " candidate"],
) -> tuple[OrderedPairs, OrderedPairs]:
    """Pairs of unequal grades within a window, and those of different windows, of one query."""
    better, worse = np.nonzero(grades[:, None] > grades[None, :])
    gap = scores[better] - scores[worse]
    right = (gap > 0) + (gap == 0) / 2
    within = windows[better] == windows[worse]
    return (
        OrderedPairs(float(right[within].sum()), int(within.sum())),
        OrderedPairs(float(right[~within].sum()), int((~within).sum())),
    )
