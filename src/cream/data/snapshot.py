"""Prompts and seed examples as Parquet, so that a run keeps the data it was made with.

One row per prompt: ``prompt_id``, ``prompt`` (a list of messages), ``task``, ``answer``,
``metadata`` (JSON text); seed examples also have ``completion``, a list with one assistant message.
That is TRL's conversational format, so the files can be trained on elsewhere and given back to
Cream as a `file` source.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cream.data.completion_spans import COMPLETION_SPANS, read_spans, written_spans
from cream.data.dedup import prompt_id
from cream.errors import DataError
from cream.types import Message, Prompt, SeedExample

_MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))
_PROMPT_FIELDS = [
    pa.field("prompt_id", pa.string(), nullable=False),
    pa.field("prompt", _MESSAGES, nullable=False),
    pa.field("task", pa.string(), nullable=False),
    pa.field("answer", pa.string()),
    pa.field("metadata", pa.string(), nullable=False),
]
PROMPT_SCHEMA = pa.schema(_PROMPT_FIELDS)
"""Columns of a file of prompts."""
SEED_SCHEMA = pa.schema([*_PROMPT_FIELDS, pa.field("completion", _MESSAGES, nullable=False)])
"""Columns of a file of seed examples."""
_SPANS = pa.list_(pa.struct([("text", pa.string()), ("train", pa.bool_())]))


def prompts_to_table(prompts: Sequence[Prompt]) -> pa.Table:
    """Return one row per prompt, in order."""
    return pa.Table.from_pylist([_prompt_row(prompt) for prompt in prompts], PROMPT_SCHEMA)


def prompts_from_table(table: pa.Table) -> tuple[Prompt, ...]:
    """Return the prompts of a table.

    Raises:
        DataError: A column is missing, or a prompt is not the one its id names.
    """
    _check_columns(table, PROMPT_SCHEMA)
    return tuple(_prompt(row) for row in table.to_pylist())


def seed_to_table(examples: Sequence[SeedExample]) -> pa.Table:
    """Return one row per example, in order."""
    rows = [
        _prompt_row(example.prompt)
        | {"completion": [{"role": "assistant", "content": example.completion}]}
        for example in examples
    ]
    table = pa.Table.from_pylist(rows, SEED_SCHEMA)
    if not any(example.masked for example in examples):
        return table
    spans = [written_spans(_cut(e.completion, e.masked)) for e in examples]
    return table.append_column(COMPLETION_SPANS, pa.array(spans, _SPANS))


def _cut(text: str, masked: Sequence[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """Parts of a completion, and whether they are trained on."""
    place = 0
    for start, end in masked:
        if start > place:
            yield text[place:start], True
        yield text[start:end], False
        place = end
    if place < len(text):
        yield text[place:], True


def seed_from_table(table: pa.Table) -> tuple[SeedExample, ...]:
    """Return the seed examples of a table. See `prompts_from_table`."""
    _check_columns(table, SEED_SCHEMA)
    return tuple(_example(row) for row in table.to_pylist())


def _example(row: Mapping[str, Any]) -> SeedExample:
    completion, spans = row["completion"][0]["content"], row.get(COMPLETION_SPANS)
    masked = read_spans(spans, completion, row["prompt_id"])[1] if spans else ()
    return SeedExample(_prompt(row), completion, masked)


def write_prompts(path: Path, prompts: Sequence[Prompt]) -> None:
    """Write prompts as Parquet. Not atomic: give a temporary path and move it."""
    pq.write_table(prompts_to_table(prompts), path)


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Read what `write_prompts` wrote.

    Raises:
        DataError: The file is missing, not Parquet, or was edited.
    """
    return prompts_from_table(_read(path))


def write_seed(path: Path, examples: Sequence[SeedExample]) -> None:
    """Write seed examples as Parquet. Not atomic: give a temporary path and move it."""
    pq.write_table(seed_to_table(examples), path)


def read_seed(path: Path) -> tuple[SeedExample, ...]:
    """Read what `write_seed` wrote. Raises like `read_prompts`."""
    return seed_from_table(_read(path))


def _read(path: Path) -> pa.Table:
    try:
        return pq.ParquetFile(path).read()
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"cannot read frozen data {path}: {error}") from error


def _check_columns(table: pa.Table, schema: pa.Schema) -> None:
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise DataError(
            f"frozen data lacks the columns {', '.join(missing)}; it has: "
            f"{', '.join(table.column_names)}"
        )


def _prompt_row(prompt: Prompt) -> dict[str, Any]:
    return {
        "prompt_id": prompt.prompt_id,
        "prompt": [{"role": m.role, "content": m.content} for m in prompt.messages],
        "task": prompt.task,
        "answer": prompt.answer,
        "metadata": json.dumps(dict(prompt.metadata), ensure_ascii=False),
    }


def _prompt(row: Mapping[str, Any]) -> Prompt:
    messages = tuple(Message(turn["role"], turn["content"]) for turn in row["prompt"])
    if prompt_id(messages) != row["prompt_id"]:
        raise DataError(
            f"frozen prompt {row['prompt_id']} does not have the content its id was made from; the "
            "file was edited, restore it or start a new run"
        )
    metadata = json.loads(row["metadata"])
    return Prompt(row["prompt_id"], messages, row["task"], row["answer"], metadata)
