"""``cream rerank eval``: how good a ranking is, by judgements; reads, runs no model.

Every figure is a mean over queries, with how many and a percentile bootstrap interval over them. A
query that was judged and not ranked is counted and has no figure, and one with nothing relevant has
none either; neither is a 0.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cream.algorithms.ranking import kendall_tau, spearman
from cream.algorithms.retrieval import ndcg, ordered_pairs, reciprocal_rank
from cream.algorithms.rewards import Reward
from cream.algorithms.statistics import Absent, bootstrap_mean
from cream.data.candidates import Judgements, ranked, read_judgements, read_run
from cream.errors import DataError
from cream.programs.reranking import SCORES
from cream.recipe.reranking import IDENTIFIERS
from cream.records import Count, Record
from cream.runs.seeds import derive_seed
from cream.runs.store import Run

DEPTH = 10


class MeanOverQueries(Record):
    """A mean over queries with its 95 % interval; null with a reason where there is none."""

    mean: float | None
    low: float | None
    high: float | None
    n: Count
    """Queries that have the figure."""
    reason: str | None


class RankingFigures(Record):
    """How good a ranking is. Those after the first two need scores of ``cream rerank score``."""

    queries: Count
    """Judged and ranked."""
    not_ranked: Count
    """Judged, and absent from the ranking."""
    not_judged: Count
    """Ranked, and without any judgement: left out."""
    candidates: Count
    """Ranked, of the first kind of queries."""
    unscored: dict[str, Count]
    """Candidates without a score, by reason; they stand in no ranking."""
    figures: dict[str, MeanOverQueries]
    """``ndcg@10``, ``mrr@10``; pairs of unequal grades in the right order within and across
    windows, by the score that ranks (``pairs/within``, ``pairs/across``) and by the point view
    (``pairs/point_within``, ``pairs/point_across``); ``tau/list_point``, Kendall's tau-b of the
    two; ``spearman/length``, of score and tokens."""
    identifier_bias: dict[str, MeanOverQueries]
    """By letter: list view under it minus the mean of its window, mean over windows (n)."""


@dataclass(frozen=True, slots=True)
class _Scored:
    """A candidate as ``cream rerank score`` keeps it; numbers are NaN where there are none."""

    candidate_id: str
    label: float | None
    score: float
    pointwise: float
    within: float
    window: float
    identifier: float
    tokens: float
    reason: str | None


def evaluate_ranking(
    source: Path, judgements: Path | None, *, relevant: float = 1.0, seed: int = 0
) -> RankingFigures:
    """Measure a TREC run, or the folder of a scoring.

    Args:
        source: The file or folder.
        judgements: Of TREC, MS MARCO or BEIR; None: the labels that the candidates came with.
        relevant: Grade from which a candidate counts for ``mrr@10``.
        seed: Of the intervals.

    Raises:
        DataError: There are no judgements, or none of a query that was ranked.
        RunError: The folder holds no finished scoring, or a file is not what was written.
    """
    scored = _read_scores(source) if source.is_dir() else None
    if scored is not None:
        ranking = {
            q: {c.candidate_id: c.score for c in own if not np.isnan(c.score)}
            for q, own in scored.items()
        }
    else:
        ranking = read_run(source)
    grades = _grades(source, judgements, scored)
    common = [q for q in ranking if grades.get(q)]
    if not common:
        raise DataError(
            f"no query of {source} is judged; ids of queries must be equal in both, as text"
        )
    found: dict[str, list[float | Absent]] = defaultdict(list)
    for query in common:
        told = grades[query]
        order = [told.get(c, 0.0) for c in ranked(ranking[query])]
        judged = list(told.values())
        found[f"ndcg@{DEPTH}"].append(ndcg(order, judged, depth=DEPTH))
        found[f"mrr@{DEPTH}"].append(reciprocal_rank(order, judged, relevant=relevant, depth=DEPTH))
        for name, value in _of_scores((scored or {}).get(query, []), told).items():
            found[name].append(value)
    unscored: dict[str, int] = defaultdict(int)
    letters: dict[str, list[float | Absent]] = defaultdict(list)
    for own in (scored or {}).values():
        for candidate in own:
            if candidate.reason is not None:
                unscored[candidate.reason] += 1
        for letter, value in _letters(own):
            letters[letter].append(value)

    def mean(name: str, values: Sequence[float | Absent]) -> MeanOverQueries:
        return _mean(values, np.random.default_rng(derive_seed(seed, "interval", name)))

    return RankingFigures(
        queries=len(common),
        not_ranked=len(grades.keys() - ranking.keys()),
        not_judged=len(ranking) - len(common),
        candidates=sum(len(ranking[q]) for q in common),
        unscored=dict(sorted(unscored.items())),
        figures={name: mean(name, values) for name, values in found.items()},
        identifier_bias={name: mean(name, letters[name]) for name in sorted(letters)},
    )


def _read_scores(folder: Path) -> dict[str, list[_Scored]]:
    stage = Run(folder).finished(SCORES)
    found: dict[str, list[_Scored]] = defaultdict(list)
    for table in stage.tables():
        for row in table.to_pylist():
            numbers = {
                name: float("nan") if row[name] is None else row[name]
                for name in ("score", "pointwise", "within", "window", "identifier", "tokens")
            }
            one = _Scored(row["candidate_id"], row["label"], reason=row["reason"], **numbers)
            found[row["query_id"]].append(one)
    return found


def _grades(
    source: Path, judgements: Path | None, scored: Mapping[str, Sequence[_Scored]] | None
) -> Judgements:
    if judgements is not None:
        return read_judgements(judgements)
    found = {
        q: {c.candidate_id: c.label for c in own if c.label is not None}
        for q, own in (scored or {}).items()
    }
    if not any(found.values()):
        raise DataError(f"{source} holds no labels; give judgements by --qrels")
    return {q: told for q, told in found.items() if told}


def _of_scores(own: Sequence[_Scored], told: Mapping[str, float]) -> dict[str, float | Absent]:
    """Figures of one query that need more than its ranking."""
    own = [c for c in own if not np.isnan(c.score)]
    if not own:
        return {}
    grades = np.array([told.get(c.candidate_id, 0.0) for c in own])
    windows = np.array([int(c.window) for c in own])
    columns = {
        name: np.array([getattr(c, name) for c in own], dtype=np.float64)
        for name in ("score", "pointwise", "tokens")
    }
    found: dict[str, float | Absent] = {}
    for column, prefix in (("score", ""), ("pointwise", "point_")):
        pairs = ordered_pairs(columns[column], grades, windows)
        for place, counted in zip(("within", "across"), pairs, strict=True):
            found[f"pairs/{prefix}{place}"] = counted.share
    found["tau/list_point"] = _agreement(kendall_tau, columns["score"], columns["pointwise"])
    found["spearman/length"] = _agreement(spearman, columns["score"], columns["tokens"])
    return found


def _agreement(statistic: Callable, one: np.ndarray, other: np.ndarray) -> float | Absent:
    first, second = (Reward(v[None], np.zeros((1, len(v)))) for v in (one, other))
    found = statistic(first, second, np.ones((1, len(one)), dtype=bool))
    return float(found.values[0]) if found.defined[0] else Absent.NO_VARIATION


def _letters(own: Sequence[_Scored]) -> list[tuple[str, float]]:
    by_window: dict[float, list[_Scored]] = defaultdict(list)
    for candidate in own:
        if not np.isnan(candidate.within):
            by_window[candidate.window].append(candidate)
    found = []
    for members in by_window.values():
        mean = float(np.mean([c.within for c in members]))
        found += [(IDENTIFIERS[int(c.identifier)], c.within - mean) for c in members]
    return found


def _mean(values: Sequence[float | Absent], generator: np.random.Generator) -> MeanOverQueries:
    known = np.array([v for v in values if not isinstance(v, Absent)], dtype=np.float64)
    found = bootstrap_mean(known, generator)
    if isinstance(found, Absent):
        reasons = [v for v in values if isinstance(v, Absent)]
        reason = str(reasons[0] if reasons else found)
        return MeanOverQueries(mean=None, low=None, high=None, n=0, reason=reason)
    return MeanOverQueries(
        mean=found.estimate, low=found.low, high=found.high, n=found.num_items, reason=None
    )
