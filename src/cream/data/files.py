"""Rows of JSONL, Parquet and CSV files and of hub datasets, each knowing where it stands.

Only reads; what a row means is `cream.data.formats`. Line numbers count from 1 and are those of an
editor; rows of Parquet files and datasets count from 1 as well. Whatever is in a file, reading it
ends in rows or in one `DataError` with the place, and holds one row (Parquet: one batch of rows) in
memory at a time.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

from cream.errors import DataError
from cream.recipe.data import HubSource

MAX_ROW_BYTES = 32 * 2**20
"""Longest line of JSONL or CSV, and longest cell; no context holds a hundredth of it."""
MAX_DEPTH = 100
"""Deepest nesting of lists and objects in JSON."""
_BATCH_ROWS = 256


@dataclass(frozen=True, slots=True)
class Row:
    """Columns of one row. Numbers of JSON with a point or exponent are `Decimal`, as written."""

    values: Mapping[str, Any]
    where: str
    """For messages: ``prompts.jsonl line 12``."""
    typed: bool = True
    """False if every value is text because the format knows no other (CSV)."""


def file_rows(path: Path) -> Iterator[Row]:
    """Yield the rows of a file in order; the format follows the suffix.

    Raises:
        DataError: The file is missing, unreadable, not UTF-8 or malformed (with the line).
    """
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(f"data file {path} {problem}; paths are relative to the recipe's folder")
    match path.suffix.lower():
        case ".jsonl" | ".ndjson":
            yield from _jsonl_rows(path)
        case ".parquet":
            yield from _parquet_rows(path)
        case ".csv":
            yield from _csv_rows(path)
        case suffix:
            raise DataError(f"cannot tell the format of {path} from {suffix!r}")


def hub_rows(source: HubSource, base_dir: Path) -> Iterator[Row]:
    """Yield the rows of one split of a hub dataset or of a local dataset folder.

    Raises:
        DataError: The dataset, its configuration, revision or split cannot be had.
    """
    import datasets  # a second to import, needed by hub sources only
    from datasets.exceptions import DatasetsError

    is_local = source.dataset.startswith((".", "/"))
    name = str((base_dir / source.dataset).resolve()) if is_local else source.dataset
    try:
        table = datasets.load_dataset(
            name, source.config_name, split=source.split, revision=source.revision
        )
    except (DatasetsError, OSError, ValueError, KeyError) as error:
        raise DataError(
            f"cannot load dataset {source.dataset} (config {source.config_name}, split "
            f"{source.split}, revision {source.revision}): {first_line(error)}. Check these names, "
            "and the network if the dataset is not on this machine."
        ) from error
    place = f"{source.dataset} {source.split} row"
    number = 0
    try:
        for values in table:
            number += 1
            yield Row(dict(values), f"{place} {number}")
    except (DatasetsError, OSError, ValueError, ArithmeticError) as error:
        raise DataError(f"{place} {number + 1} cannot be read: {first_line(error)}") from error


def parse_json(text: str, what: str, expected: str) -> Any:
    """Parse JSON strictly: no key twice, no nesting or integer beyond what Python can handle.

    Args:
        text: What to parse.
        what: What it is and where, for the message: ``prompts.jsonl line 3``.
        expected: What it should be: ``valid JSON``.

    Raises:
        DataError: It is not that.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique_keys, parse_float=Decimal)
    except json.JSONDecodeError as error:
        raise DataError(
            f"{what} is not {expected}: {error.msg} at column {error.colno}; write one JSON value "
            "per line or cell"
        ) from error
    except RecursionError:
        raise DataError(_too_deep(what)) from None
    except _KeyTwiceError as error:
        raise DataError(
            f"{what} has the key `{error}` twice in one object, so one of the two values would be "
            "dropped; rename one or take it out"
        ) from None
    except (ValueError, ArithmeticError):  # int() refuses more than 4300 digits
        raise DataError(
            f"{what} holds a number of more digits than can be read; write it as text"
        ) from None
    if text.count("[") + text.count("{") > MAX_DEPTH and _depth_exceeds(value, MAX_DEPTH):
        raise DataError(_too_deep(what))
    return value


def checked_text(text: str, where: str, name: str) -> str:
    """Return a text that can be stored, tokenised and shown.

    Raises:
        DataError: It holds half of a surrogate pair (JSON may), or a NUL.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: column `{name}` holds a broken character: {error}") from None
    if "\0" in text:
        raise DataError(
            f"{where}: column `{name}` holds a NUL character; the file was damaged, or is not UTF-8"
        )
    return text


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in text_lines(path):
        where = f"{path} line {number}"
        if not line.strip():
            continue
        values = parse_json(line, where, "valid JSON")
        if not isinstance(values, dict):
            raise DataError(
                f"{where} holds a {type(values).__name__}; write one JSON object per line"
            )
        yield Row(values, where)


def _csv_rows(path: Path) -> Iterator[Row]:
    csv.field_size_limit(MAX_ROW_BYTES)  # 131,072 by default, for the whole process
    lines = (line for _, line in text_lines(path))
    reader = csv.reader(lines, strict=True)
    line = 1
    try:
        header = next(reader, None)
        if not header:
            raise DataError(f"{path} is empty; its first line must name the columns")
        _refuse_twice(header, f"{path} line 1")
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise DataError(
                    f"{path} line {line} has {len(cells)} cells, the header has {len(header)}; "
                    "quote cells that contain commas"
                )
            if cells:
                values = dict(zip(header, cells, strict=True))
                yield Row(values, f"{path} line {line}", typed=False)
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {line} is not valid CSV: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            _refuse_twice(file.schema_arrow.names, str(path))
            for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                for values in _batch_rows(batch):
                    number += 1
                    yield Row(values, f"{path} row {number}")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} row {number + 1} is not UTF-8 text ({error.reason} at byte {error.start}); "
            "write the file again from text that is"
        ) from error
    except (pa.ArrowException, OSError, ValueError, ArithmeticError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {first_line(error)}") from error


def _batch_rows(batch: Any) -> Iterator[dict[str, Any]]:
    """Rows of a record batch; of one that holds bytes that are no text, those before them."""
    import pyarrow as pa

    short = [field.name for field in batch.schema if field.type in (pa.float16(), pa.float32())]
    try:
        rows = batch.to_pylist()
    except UnicodeDecodeError:
        rows = (row for i in range(batch.num_rows) for row in batch.slice(i, 1).to_pylist())
    for row in rows:
        yield row | {name: _shortest(row[name]) for name in short}


def _shortest(value: float | None) -> Decimal | None:
    """A float32 as it was written: 0.1, not the 0.10000000149 that it is as a float64."""
    import numpy as np

    return None if value is None else Decimal(str(np.float32(value)))


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Number and text of each line.

    Raises:
        DataError: The file cannot be read, a line is no UTF-8 or longer than any row.
    """
    # Decoded line by line, so that an error names its line; a byte-order mark is skipped.
    try:
        with path.open("rb") as file:
            number = 0
            while raw := file.readline(MAX_ROW_BYTES + 1):
                number += 1
                if len(raw) > MAX_ROW_BYTES:
                    raise DataError(
                        f"{path} line {number} is longer than {MAX_ROW_BYTES >> 20} MiB; write one "
                        "row per line"
                    )
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path} line {number} is not UTF-8 text; save the file as UTF-8"
                    ) from error
                yield number, text
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error


class _KeyTwiceError(Exception):
    """An object of JSON names a key twice."""


def _unique_keys(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _KeyTwiceError(Counter(name for name, _ in pairs).most_common(1)[0][0])
    return values


def _refuse_twice(names: Sequence[str], where: str) -> None:
    if len(set(names)) < len(names):
        twice = [name for name, count in Counter(names).items() if count > 1]
        raise DataError(f"{where} names a column twice: {', '.join(twice)}; rename one")


def _too_deep(what: str) -> str:
    return f"{what} nests lists and objects more than {MAX_DEPTH} deep; write it flat"


def _depth_exceeds(value: Any, limit: int) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            inner
            for outer in level
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return False
    return True


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else repr(error)
