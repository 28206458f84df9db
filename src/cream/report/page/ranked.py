"""The completions of one iteration with the rewards and ranks that its pairs were made by.

Values are computed again from the score matrix by the quantities that the pair stage recorded, so
they are those that decided. Ranks here are by value alone; the method also treats values within
the noise of each other as tied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64, Int64
from pydantic import TypeAdapter, ValidationError

from cream.algorithms.groups import chunks
from cream.errors import RunError
from cream.recipe.pairing import PairingConfig
from cream.recipe.parts import (
    EXTRACTED,
    VERIFIER,
    Agreement,
    AnyQuantity,
    Quantity,
    ScoreQuantity,
    Votes,
    models_of,
)
from cream.report.page.records import compared, rate_of
from cream.runs.files import read_table
from cream.runs.tables import BASE_COLUMNS, LOGP_PREFIX, matrix_from_tables
from cream.stages.layout import Layout
from cream.types import Origin

STATISTICS = {"kendall": "tau", "kendall_by_position": "tau", "spearman": "rho"}
"""Short names of statistics; the others go by their own."""


@dataclass(frozen=True)
class RankedSet:
    """Everything numeric about an iteration's completions; texts are read part by part."""

    folder: Path
    """``iteration-<t>``."""
    layout: Layout
    names: tuple[str, ...]
    """The reward, then what was compared, each once."""
    values: tuple[Float64[np.ndarray, "prompt member"], ...]
    ranks: tuple[Int64[np.ndarray, "prompt member"], ...]
    """1 is best; 0 where a completion may not be paired or has no value."""
    decided: Mapping[str, Mapping[str, Any]]
    """Per prompt id: ``outcome``, ``statistic`` and its value ``tau``, ``why``, ``consistency``."""
    pairs: Mapping[str, list[tuple[str, str, float, float]]]
    """Per prompt id: chosen and rejected id, C in the loss, weight."""

    @property
    def prompt_ids(self) -> list[str]:
        """Prompts with completions."""
        return self.layout.matrix.prompt_ids.tolist()

    def groups(self) -> Iterator[dict[str, Any]]:
        """Each prompt with its distinct completions, as JSON values, in the order of the files."""
        place = {key: g for g, key in enumerate(self.prompt_ids)}
        names = ["prompt_id", "completion_id", "text", "origin"]
        for path in sorted((self.folder / "matrix").glob("part-*.parquet")):
            there = set(pq.read_schema(path).names)
            wanted = [*names, *(n for n in (VERIFIER, EXTRACTED) if n in there)]
            by_prompt: dict[str, dict[str, Mapping[str, Any]]] = defaultdict(dict)
            for row in read_table(path, wanted).to_pylist():
                by_prompt[row["prompt_id"]][row["completion_id"]] = row
            for key, rows in by_prompt.items():
                yield self._group(key, place[key], rows)

    def _group(self, key: str, g: int, rows: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        groups, ids = self.layout.groups, self.layout.matrix.completion_ids
        members = np.flatnonzero(groups.present[g])
        first = {}  # where the first copy of each completion stands in the list
        completions = []
        position: dict[str, int] = {}
        for member in members.tolist():
            mark = int(groups.ids_hash[g, member])
            if mark not in first:
                first[mark] = len(completions)
                completions.append(self._completion(g, member, rows))
            position[str(ids[groups.rows[g, member]])] = first[mark]
        pairs = [
            [position[chosen], position[rejected], _rounded(c), _rounded(weight)]
            for chosen, rejected, c, weight in self.pairs.get(key, [])
        ]
        return {
            "id": key,
            "quantities": self.names,
            "completions": completions,
            "pairs": pairs,
            **self.decided[key],
        }

    def _completion(
        self, g: int, member: int, rows: Mapping[str, Mapping[str, Any]]
    ) -> dict[str, Any]:
        layout = self.layout
        row = rows[str(layout.matrix.completion_ids[layout.groups.rows[g, member]])]
        verdict = row.get(VERIFIER)
        return {
            "text": row["text"],
            "origin": "" if row["origin"] == Origin.POLICY else row["origin"],
            "tokens": int(layout.num_tokens[g, member]),
            "truncated": bool(layout.truncated[g, member]),
            "copies": int(layout.groups.multiplicity[g, member]),
            "correct": None if verdict is None or np.isnan(verdict) else verdict == 1,
            "extracted": row.get(EXTRACTED),
            "values": [_rounded(values[g, member]) for values in self.values],
            "ranks": [int(ranks[g, member]) or None for ranks in self.ranks],
        }


def read_ranked_set(root: Path, record: Mapping[str, Any], t: int) -> RankedSet:
    """Read iteration t of a run.

    Args:
        root: Run directory.
        record: ``stage.json`` of the iteration's pair stage.
        t: Iteration.

    Raises:
        RunError: The record names quantities that this version does not know.
    """
    folder = root / f"iteration-{t}"
    try:
        reward, agreement, layout = _layout(folder, record)
    except (ValidationError, KeyError) as error:
        raise RunError(
            f"{folder / 'pair'} was made by a version of Cream that names its parts otherwise "
            f"({type(error).__name__}); `cream report` of that version reads it"
        ) from error
    asked = [reward, *((agreement.first, agreement.second) if agreement else ())]
    quantities = list(dict.fromkeys(asked))
    values = tuple(layout.quantity(quantity).values for quantity in quantities)
    counted = layout.usable & layout.groups.distinct
    return RankedSet(
        folder=folder,
        layout=layout,
        names=tuple(map(str, quantities)),
        values=values,
        ranks=tuple(ranks(one, counted) for one in values),
        decided=_decided(folder, agreement),
        pairs=_pairs(folder),
    )


def ranks(
    values: Float64[np.ndarray, "prompt member"], counted: Bool[np.ndarray, "prompt member"]
) -> Int64[np.ndarray, "prompt member"]:
    """Rank of each counted value in its group: 1 + how many are larger; 0 where none counts."""
    found = np.zeros(values.shape, dtype=np.int64)
    counted = counted & ~np.isnan(values)
    count, width = values.shape
    for rows in chunks(count, width * width):
        some, counts = values[rows], counted[rows]
        larger = (some[:, None, :] > some[:, :, None]) & counts[:, None, :]
        found[rows] = np.where(counts, 1 + larger.sum(axis=2), 0)
    return found


def _layout(
    folder: Path, record: Mapping[str, Any]
) -> tuple[AnyQuantity, Agreement | None, Layout]:
    parts = record["inputs"]["parts"]
    reward = TypeAdapter[AnyQuantity](Quantity).validate_python(parts["reward"])
    stated = compared(record)
    agreement = None if stated is None else Agreement.model_validate(stated)
    rule = TypeAdapter[Any](PairingConfig).validate_python(parts["pairing"])
    asked = [reward, *((agreement.first, agreement.second) if agreement else ())]
    logps = list(dict.fromkeys(name for q in asked for name in models_of(q)))
    scores = [q.column for q in asked if isinstance(q, ScoreQuantity)]
    labels = [q.column for q in asked if isinstance(q, Votes)]
    columns = [*BASE_COLUMNS, *(LOGP_PREFIX + n for n in logps), *scores, *labels]
    paths = sorted((folder / "matrix").glob("part-*.parquet"))
    tables = [read_table(path, list(dict.fromkeys(columns))) for path in paths]
    return (
        reward,
        agreement,
        Layout(matrix_from_tables(tables, logps, scores, labels), rule, reward),
    )


def _decided(folder: Path, agreement: Agreement | None) -> dict[str, dict[str, Any]]:
    names = ["prompt_id", "correlation", "definedness", "outcome"]
    table = read_table(folder / "pair" / "prompts.parquet", names)
    found = table["correlation"].to_numpy().astype(np.float64)
    statistic = agreement.statistic if agreement else "kendall"
    rates = rate_of(found, statistic)
    return {
        row["prompt_id"]: {
            "outcome": row["outcome"],
            "statistic": STATISTICS.get(statistic, statistic),
            "tau": _rounded(row["correlation"]),
            "why": row["definedness"],
            "consistency": _rounded(rate),
        }
        for row, rate in zip(table.to_pylist(), rates.tolist(), strict=True)
    }


def _pairs(folder: Path) -> dict[str, list[tuple[str, str, float, float]]]:
    found: dict[str, list[tuple[str, str, float, float]]] = defaultdict(list)
    names = ["prompt_id", "chosen_id", "rejected_id", "consistency", "weight"]
    for row in read_table(folder / "pair" / "pairs.parquet", names).to_pylist():
        found[row["prompt_id"]].append(
            (row["chosen_id"], row["rejected_id"], row["consistency"], row["weight"])
        )
    return found


def _rounded(value: float | None) -> float | None:
    """To four decimals: enough to compare, and half the bytes; None for what is not finite."""
    return round(float(value), 4) if value is not None and np.isfinite(value) else None
