"""Queries with candidates, as people who rerank have them: JSONL, TREC runs, judgements.

A JSONL file has a query per line, with its candidates in the order of the first stage:

    {"query_id": "q1", "query": "...", "candidates": [{"id": "d1", "text": "...", "label": 1}]}

A TREC run (``q1 Q0 d1 1 12.5 bm25``) names candidates only; their texts and those of the queries
come from two further files, TSV (``id<TAB>text``) or JSONL (``id`` or ``_id``, ``text``, and
``title``, which is put before it). Judgements are ``q1 0 d1 2`` lines, as of TREC and MS MARCO, or
BEIR's TSV of three columns. Nothing is guessed: every line that does not fit is named.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from cream.data.files import Row, checked_text, file_rows, text_lines
from cream.errors import DataError

TAG = "cream"
"""Sixth column of the TREC runs that are written."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A text that may answer a query."""

    candidate_id: str
    text: str
    label: float | None = None
    """How well it does, higher is better; None: not judged."""


@dataclass(frozen=True, slots=True)
class CandidateGroup:
    """A query with its candidates, in the order of the first stage."""

    query_id: str
    query: str
    candidates: tuple[Candidate, ...]


Judgements = Mapping[str, Mapping[str, float]]
"""Query id, candidate id, grade."""
Ranking = Mapping[str, Mapping[str, float]]
"""Query id, candidate id in the order of the file's ranks, score."""


def read_groups(
    path: Path, *, queries: Path | None = None, passages: Path | None = None
) -> list[CandidateGroup]:
    """Read queries with their candidates; the suffix ``.jsonl`` says which of the two forms.

    Raises:
        DataError: A line does not fit, an id occurs twice, or a text is missing.
    """
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        if queries or passages:
            raise DataError(f"{path} holds its texts; --queries and --passages go with a TREC run")
        return _distinct([_group(row) for row in file_rows(path)], path)
    if queries is None or passages is None:
        raise DataError(
            f"{path} is read as a TREC run, which names queries and candidates only; give their "
            "texts by --queries and --passages, or a .jsonl file that holds them"
        )
    ranking = read_run(path)
    asked = _texts(queries, set(ranking))
    told = _texts(passages, {c for found in ranking.values() for c in found})
    return [
        CandidateGroup(q, asked[q], tuple(Candidate(c, told[c]) for c in found))
        for q, found in ranking.items()
    ]


def _group(row: Row) -> CandidateGroup:
    known = {"query_id", "query", "candidates"}
    _refuse_unknown(row.values, known, row.where)
    listed = row.values.get("candidates")
    if not isinstance(listed, list) or not listed:
        raise DataError(f"{row.where}: `candidates` must be a list of objects with id and text")
    found: dict[str, Candidate] = {}
    for number, given in enumerate(listed, start=1):
        where = f"{row.where}, candidate {number}"
        if not isinstance(given, dict):
            raise DataError(f"{where} must be an object with `id` and `text`")
        _refuse_unknown(given, {"id", "text", "label"}, where)
        one = Candidate(_id(given, "id", where), _text(given, "text", where), _label(given, where))
        if found.setdefault(one.candidate_id, one) is not one:
            raise DataError(f"{where}: id {one.candidate_id!r} occurs twice in this query")
    query_id = _id(row.values, "query_id", row.where)
    return CandidateGroup(query_id, _text(row.values, "query", row.where), tuple(found.values()))


def _refuse_unknown(values: Mapping[str, Any], known: set[str], where: str) -> None:
    unknown = [name for name in values if name not in known]
    if unknown:
        raise DataError(
            f"{where} has `{unknown[0]}`, which is not read; it may have {', '.join(sorted(known))}"
        )


def _id(values: Mapping[str, Any], name: str, where: str) -> str:
    value = values.get(name)
    text = str(value) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(text, str) or not text or text != "".join(text.split()):
        raise DataError(f"{where}: `{name}` must be a text without spaces, not {value!r}")
    return checked_text(text, where, name)


def _text(values: Mapping[str, Any], name: str, where: str) -> str:
    value = values.get(name)
    if not isinstance(value, str):
        raise DataError(f"{where}: `{name}` must be a text, not {value!r}")
    return checked_text(value, where, name)


def _label(values: Mapping[str, Any], where: str) -> float | None:
    value = values.get("label")
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise DataError(f"{where}: `label` must be a number, not {value!r}")
    return float(value)


def _distinct(groups: list[CandidateGroup], path: Path) -> list[CandidateGroup]:
    if not groups:
        raise DataError(f"{path} holds no query")
    seen: set[str] = set()
    for group in groups:
        if group.query_id in seen:
            raise DataError(f"{path}: query {group.query_id!r} stands on two lines; join them")
        seen.add(group.query_id)
    return groups


def _texts(path: Path, wanted: set[str]) -> dict[str, str]:
    """Texts of these ids; others are passed over."""
    found = {key: text for key, text in _all_texts(path) if key in wanted}
    missing = sorted(wanted - found.keys())
    if missing:
        raise DataError(
            f"{path} has no text for {len(missing)} of {len(wanted)} ids, {missing[0]!r} among them"
        )
    return found


def _all_texts(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        for row in file_rows(path):
            key = _id(row.values, "_id" if "_id" in row.values else "id", row.where)
            title = _text({"title": "", **row.values}, "title", row.where)
            yield key, f"{title} {_text(row.values, 'text', row.where)}".strip()
        return
    for number, line in _lines(path):
        key, tab, text = line.partition("\t")
        if not tab:
            raise DataError(f"{path} line {number} is not `id<TAB>text`")
        yield key.strip(), checked_text(text.strip(), f"{path} line {number}", "text")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    if not path.is_file():
        raise DataError(f"{path} does not exist or is a folder")
    yield from ((n, line.rstrip("\r\n")) for n, line in text_lines(path) if line.strip())


def read_run(path: Path) -> Ranking:
    """Read a TREC run: per query its candidates by score, the given rank where scores are equal.

    Raises:
        DataError: A line does not have six columns, a number is none, or an id occurs twice.
    """
    found: dict[str, list[tuple[float, float, str]]] = {}
    seen: set[tuple[str, str]] = set()
    for number, line in _lines(path):
        where, cells = f"{path} line {number}", line.split()
        if len(cells) != 6:
            raise DataError(
                f"{where} has {len(cells)} columns; a TREC run has six: query Q0 candidate rank "
                "score tag"
            )
        query, _, candidate, rank, score, _ = cells
        if (query, candidate) in seen:
            raise DataError(f"{where}: candidate {candidate!r} of query {query!r} occurs twice")
        seen.add((query, candidate))
        order = (-_number(score, where), _number(rank, where), candidate)
        found.setdefault(query, []).append(order)
    if not found:
        raise DataError(f"{path} holds no candidate")
    return {q: {c: -score for score, _, c in sorted(listed)} for q, listed in found.items()}


def read_judgements(path: Path) -> Judgements:
    """Read judgements: four columns as of TREC, or three under a header as of BEIR.

    Raises:
        DataError: A line does not fit, or a candidate is judged twice with different grades.
    """
    found: dict[str, dict[str, float]] = {}
    for number, line in _lines(path):
        where, cells = f"{path} line {number}", line.split()
        if number == 1 and cells[0] in ("query-id", "query_id"):
            continue
        if len(cells) not in (3, 4):
            raise DataError(
                f"{where} has {len(cells)} columns; judgements have four (query 0 candidate "
                "grade), or three without the 0"
            )
        query, candidate, grade = cells[0], cells[-2], _number(cells[-1], where)
        if found.setdefault(query, {}).setdefault(candidate, grade) != grade:
            raise DataError(f"{where}: candidate {candidate!r} of query {query!r} is judged twice")
    if not found:
        raise DataError(f"{path} holds no judgement")
    return found


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{where}: {text!r} is not a number")
    return value


def judged(groups: Iterable[CandidateGroup], judgements: Judgements) -> list[CandidateGroup]:
    """Groups with the labels of judgements; a candidate that was not judged has none."""
    return [
        replace(
            group,
            candidates=tuple(
                replace(c, label=judgements.get(group.query_id, {}).get(c.candidate_id))
                for c in group.candidates
            ),
        )
        for group in groups
    ]


def ranked(scores: Mapping[str, float]) -> list[str]:
    """Candidates by falling score, as ``trec_eval`` has it: of equal ones the greater id first."""
    return sorted(scores, key=lambda c: (scores[c], c), reverse=True)


def run_lines(ranking: Ranking) -> Iterator[str]:
    """Lines of a TREC run."""
    for query, scores in ranking.items():
        for rank, candidate in enumerate(ranked(scores), start=1):
            yield f"{query} Q0 {candidate} {rank} {scores[candidate]!r} {TAG}\n"
