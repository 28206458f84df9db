"""What a sample stage says about its completions: how many, how long, and how varied.

Only completions that a model sampled are counted; those that a data set brought along are not.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from cream.algorithms.diagnostics import distinct_ngrams
from cream.algorithms.statistics import Absent
from cream.records import SampleProfile
from cream.types import FinishReason, Origin

SAMPLE_COLUMNS = ["prompt_id", "ids_hash", "token_ids", "finish_reason", "origin"]
"""What is read of a sample table."""
DISTINCT_COMPLETIONS = 20_000
"""Most completions whose n-grams are counted: the count needs all of their tokens at once."""


def sample_summary(
    tables: Iterable[pa.Table], *, max_distinct: int = DISTINCT_COMPLETIONS
) -> SampleProfile:
    """Figures of a sample stage (see the glossary).

    Args:
        tables: The stage's parts with `SAMPLE_COLUMNS`, a prompt's completions in one part.
        max_distinct: ``distinct_2`` is that of this many completions, the first ones.

    """
    truncated = distinct = 0
    lengths: list[np.ndarray] = [np.empty(0, np.int64)]
    ids: list[np.ndarray] = [np.empty(0, np.int64)]
    room = max_distinct
    for part in tables:
        sampled = [origin != Origin.DATA for origin in part["origin"].to_pylist()]
        table = part.filter(pa.array(sampled, pa.bool_()))
        token_ids = table["token_ids"].combine_chunks()
        lengths.append(token_ids.value_lengths().to_numpy().astype(np.int64))
        ids.append(token_ids.slice(0, room).flatten().to_numpy())
        room = max(room - table.num_rows, 0)
        truncated += table["finish_reason"].to_pylist().count(FinishReason.LENGTH)
        distinct += table.group_by(["prompt_id", "ids_hash"]).aggregate([]).num_rows
    tokens = np.concatenate(lengths)
    counted = tokens[:max_distinct]
    share = distinct_ngrams(np.concatenate(ids), np.concatenate([[0], counted.cumsum()]), n=2)
    return SampleProfile(
        completions=len(tokens),
        tokens=int(tokens.sum()),
        truncated=truncated,
        distinct=distinct,
        duplicate_rate=1 - distinct / len(tokens) if len(tokens) else None,
        distinct_2=None if isinstance(share, Absent) else float(share),
        distinct_2_completions=len(counted),
    )
