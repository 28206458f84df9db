"""Records as Parquet tables and back: completions, log-probability columns, the score matrix.

Rows of one prompt are contiguous everywhere. Columns are joined by completion id, never by place.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from cream.errors import RunError
from cream.types import (
    Completion,
    Example,
    FinishReason,
    Origin,
    PairTable,
    ScoreMatrix,
    TokenSequence,
)

COMPLETION_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("completion_id", pa.string()),
        ("token_ids", pa.list_(pa.int32())),
        ("ids_hash", pa.int64()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("seed", pa.int64()),
        ("sampling_logp", pa.float64()),
        ("origin", pa.string()),
    ]
)
EVALUATION_SCHEMA = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("task", pa.string()),
        ("index", pa.int32()),
        ("text", pa.string()),
        ("finish_reason", pa.string()),
        ("num_tokens", pa.int32()),
        ("correct", pa.bool_()),
        ("partial_credit", pa.float64()),
        ("extracted", pa.string()),
    ]
)
"""Stated, not inferred: a part without a single extracted answer must still be like the others."""
ORIGIN = "origin"
"""Column of a sample table or matrix: who made a completion."""
LOGP_PREFIX = "logps_"
NUM_TOKENS = "num_tokens"
BASE_COLUMNS = ("prompt_id", "completion_id", "ids_hash", "finish_reason", NUM_TOKENS)
"""What is read of every score matrix, whatever the method."""
_METADATA = b"cream"


def hash_ids(token_ids: Sequence[int]) -> int:
    """Signed 64-bit hash of token ids; equal for equal sequences, end token included."""
    raw = np.asarray(token_ids, dtype="<i8").tobytes()
    return int.from_bytes(hashlib.blake2b(raw, digest_size=8).digest(), "big", signed=True)


def completions_to_table(completions: Iterable[Completion]) -> pa.Table:
    """One row per completion."""
    rows = list(completions)
    return pa.table(
        {
            "prompt_id": [c.prompt_id for c in rows],
            "completion_id": [c.completion_id for c in rows],
            "token_ids": [list(c.token_ids) for c in rows],
            "ids_hash": [hash_ids(c.token_ids) for c in rows],
            "text": [c.text for c in rows],
            "finish_reason": [str(c.finish_reason) for c in rows],
            "seed": [c.seed for c in rows],
            "sampling_logp": [c.sampling_logp for c in rows],
            "origin": [c.origin for c in rows],
        },
        schema=COMPLETION_SCHEMA,
    )


def completions_from_table(table: pa.Table) -> list[Completion]:
    """Inverse of `completions_to_table`."""
    return [
        Completion(
            prompt_id=row["prompt_id"],
            completion_id=row["completion_id"],
            token_ids=tuple(row["token_ids"]),
            text=row["text"],
            finish_reason=FinishReason(row["finish_reason"]),
            seed=row["seed"],
            sampling_logp=row["sampling_logp"],
            origin=Origin(row["origin"]),
        )
        for row in table.to_pylist()
    ]


def join_by_id(table: pa.Table, column: pa.Table, names: Sequence[str]) -> pa.Table:
    """Append columns `names` of `column` to `table`, matched by ``completion_id``.

    Raises:
        RunError: The two do not hold the same completions.
    """
    left = table["completion_id"].to_pylist()
    place = {key: i for i, key in enumerate(column["completion_id"].to_pylist())}
    if len(place) != column.num_rows or set(left) != set(place):
        raise RunError(
            f"columns {', '.join(names)} hold {column.num_rows} completions that do not match the "
            f"{len(left)} sampled ones by id; delete that score folder to make it again"
        )
    order = pa.array([place[key] for key in left])
    for name in names:
        table = table.append_column(name, column[name].take(order))
    return table


def interleave(tables: Sequence[pa.Table]) -> pa.Table:
    """Tables of the same prompts as one, a prompt's rows together, those of the first table first.

    Raises:
        RunError: They do not hold the same prompts.
    """
    if len(tables) == 1:
        return tables[0]
    prompts = [table["prompt_id"].to_pylist() for table in tables]
    place = {key: index for index, key in enumerate(dict.fromkeys(prompts[0]))}
    if any(set(keys) != set(place) for keys in prompts):
        raise RunError(
            "completions of several models do not answer the same prompts, so they cannot be "
            "joined to one matrix; delete that iteration's folder to make it again"
        )
    places = np.array([place[key] for keys in prompts for key in keys], dtype=np.int64)
    joined = pa.concat_tables(tables)
    return joined.take(pa.array(np.argsort(places, kind="stable")))


def with_metadata(table: pa.Table, values: Mapping[str, Any]) -> pa.Table:
    """Attach JSON values (such as noise floors) to a table's schema."""
    metadata = {**(table.schema.metadata or {}), _METADATA: json.dumps(dict(values)).encode()}
    return table.replace_schema_metadata(metadata)


def read_metadata(table: pa.Table) -> dict[str, Any]:
    """The values attached by `with_metadata`, or an empty dict."""
    return json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))


def matrix_from_tables(
    tables: Sequence[pa.Table],
    logp_columns: Sequence[str],
    score_columns: Sequence[str],
    label_columns: Sequence[str] = (),
) -> ScoreMatrix:
    """Build the score matrix from its Parquet parts, with the named columns only.

    Args:
        tables: Parts of a ``matrix`` stage, in order; their ``origin`` is kept if they have it.
        logp_columns: Models, e.g. ``M0``.
        score_columns: Other columns, e.g. ``verifier``.
        label_columns: Text columns that become codes, e.g. ``extracted``.
    """
    table = pa.concat_tables(tables).combine_chunks()
    prompt_column = table["prompt_id"].combine_chunks().dictionary_encode()
    codes = prompt_column.indices.to_numpy(zero_copy_only=False)
    starts = np.flatnonzero(np.diff(codes, prepend=-1))
    prompt_ids = _strings(prompt_column.dictionary)
    if len(starts) != len(prompt_ids):
        raise RunError("rows of one prompt are not contiguous in the score matrix; it was edited")

    def floats(name: str) -> np.ndarray:
        return table[name].to_numpy(zero_copy_only=False).astype(np.float64)

    return ScoreMatrix(
        prompt_ids=prompt_ids,
        group_offsets=np.append(starts, len(codes)).astype(np.int64),
        completion_ids=_strings(table["completion_id"]),
        num_tokens=table[NUM_TOKENS].to_numpy().astype(np.int32),
        truncated=_strings(table["finish_reason"]) == str(FinishReason.LENGTH),
        ids_hash=table["ids_hash"].to_numpy().astype(np.int64),
        logps={name: floats(LOGP_PREFIX + name) for name in logp_columns},
        noise={name: float(read_metadata(tables[0])["noise"][name]) for name in logp_columns},
        scores={name: floats(name) for name in score_columns},
        labels={name: _codes(table[name]) for name in label_columns},
        origin=_strings(table[ORIGIN]) if ORIGIN in table.column_names else None,
    )


def _strings(column: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """An object array of str; ten times as fast as a list on the way."""
    return np.asarray(column.to_numpy(zero_copy_only=False), dtype=object)


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    """Equal codes for equal texts, -1 for null."""
    codes = column.combine_chunks().dictionary_encode().indices
    return codes.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)


def pairs_to_table(pairs: PairTable) -> pa.Table:
    """One row per pair."""
    return pa.table(
        {
            "prompt_id": pa.array(pairs.prompt_ids, pa.string()),
            "chosen_id": pa.array(pairs.chosen_ids, pa.string()),
            "rejected_id": pa.array(pairs.rejected_ids, pa.string()),
            "chosen_reward": pairs.chosen_reward,
            "rejected_reward": pairs.rejected_reward,
            "consistency": pairs.consistency,
            "weight": pairs.weight,
        }
    )


def pairs_from_table(table: pa.Table) -> PairTable:
    """Inverse of `pairs_to_table`."""
    return PairTable(
        prompt_ids=_strings(table["prompt_id"]),
        chosen_ids=_strings(table["chosen_id"]),
        rejected_ids=_strings(table["rejected_id"]),
        chosen_reward=table["chosen_reward"].to_numpy(),
        rejected_reward=table["rejected_reward"].to_numpy(),
        consistency=table["consistency"].to_numpy(),
        weight=table["weight"].to_numpy(),
    )


EXAMPLE_SCHEMA = pa.schema(
    [
        ("example_id", pa.string()),
        ("prompt_token_ids", pa.list_(pa.int32())),
        ("weight", pa.float64()),
        ("columns", pa.map_(pa.string(), pa.float64())),
        (
            "sequences",
            pa.list_(
                pa.struct(
                    [
                        ("role", pa.string()),
                        ("token_ids", pa.list_(pa.int32())),
                        ("reference_logps", pa.float64()),
                        ("prompt_token_ids", pa.list_(pa.int32())),
                        ("loss_mask", pa.list_(pa.bool_())),
                        ("token_columns", pa.map_(pa.string(), pa.list_(pa.float64()))),
                    ]
                )
            ),
        ),
    ]
)


def examples_to_table(examples: Iterable[Example]) -> pa.Table:
    """One row per training example; what is absent is null."""
    return pa.Table.from_pylist(
        [
            {
                "example_id": example.example_id,
                "prompt_token_ids": list(example.prompt_token_ids),
                "weight": example.weight,
                "columns": list(example.columns.items()),
                "sequences": [
                    {
                        "role": role,
                        "token_ids": list(sequence.token_ids),
                        "reference_logps": sequence.reference_logps,
                        "prompt_token_ids": _list_or_none(sequence.prompt_token_ids),
                        "loss_mask": _list_or_none(sequence.loss_mask),
                        "token_columns": [
                            (name, list(values)) for name, values in sequence.token_columns.items()
                        ],
                    }
                    for role, sequence in example.sequences.items()
                ],
            }
            for example in examples
        ],
        schema=EXAMPLE_SCHEMA,
    )


def examples_from_table(table: pa.Table) -> list[Example]:
    """Inverse of `examples_to_table`."""
    return [
        Example(
            row["example_id"],
            tuple(row["prompt_token_ids"]),
            {
                sequence["role"]: TokenSequence(
                    tuple(sequence["token_ids"]),
                    sequence["reference_logps"],
                    _tuple_or_none(sequence["prompt_token_ids"]),
                    _tuple_or_none(sequence["loss_mask"]),
                    {name: tuple(values) for name, values in sequence["token_columns"]},
                )
                for sequence in row["sequences"]
            },
            dict(row["columns"]),
            row["weight"],
        )
        for row in table.to_pylist()
    ]


def _list_or_none(values: Sequence[Any] | None) -> list[Any] | None:
    return None if values is None else list(values)


def _tuple_or_none(values: Sequence[Any] | None) -> tuple[Any, ...] | None:
    return None if values is None else tuple(values)
