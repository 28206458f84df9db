"""Rewards of single tokens, from what edits touched or from log-probabilities; no model needed.

Lists by completion id; entry t judges token t. What has no reward is absent, never 0.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from cream.recipe.columns import EDIT_OUTCOME, OF_TOKENS, TOUCHED
from cream.stages.edit import RIGHT
from cream.types import Origin


def labels(table: pa.Table) -> dict[str, list[float]]:
    """-1 for a replaced token, 1 for a new one, 0 for one that was kept.

    Completions that are right have nothing to blame: 0 at every token. Those that are wrong and
    were not edited have no labels; a copy of an edited one has its labels.

    Args:
        table: A part of a stage of edits.
    """
    names = ("prompt_id", "completion_id", "ids_hash", "origin", EDIT_OUTCOME, TOUCHED)
    found: dict[str, list[float]] = {}
    first: dict[tuple[str, int], list[float]] = {}
    columns = [table[name].to_pylist() for name in names]
    sizes = table["token_ids"].combine_chunks().value_lengths().to_pylist()
    for prompt, key, ids, origin, outcome, touched, size in zip(*columns, sizes, strict=True):
        own = None
        if touched is not None:
            sign = 1.0 if origin == Origin.EDITED else -1.0
            own = [sign if mark else 0.0 for mark in touched]
        elif outcome == RIGHT:
            own = [0.0] * size
        own = own or first.get((prompt, ids))
        if own is not None:
            found[key] = own
            first.setdefault((prompt, ids), own)
    return found


def log_ratios(policy: pa.Table, reference: pa.Table) -> dict[str, list[float]]:
    """``log pi - log ref`` of each token: the implicit reward, whose sum is that of a completion.

    Args:
        policy: Log-probabilities of tokens under M_t, with the column ``token_logps``.
        reference: The same under M0.
    """
    names = ("completion_id", OF_TOKENS)
    one, other = (
        dict(zip(*(table[name].to_pylist() for name in names), strict=True))
        for table in (policy, reference)
    )
    return {key: (np.array(logps) - np.array(other[key])).tolist() for key, logps in one.items()}
