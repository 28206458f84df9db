"""Rows of JSONL, Parquet and CSV files and of hub datasets, each knowing where it stands.

Only reads; what a row means is `cream.data.formats`. Line numbers count from 1 and are those of an
editor; rows of Parquet files and datasets count from 1 as well.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cream.errors import DataError
from cream.recipe.data import HubSource


@dataclass(frozen=True, slots=True)
class Row:
    """Columns of one row."""

    values: Mapping[str, Any]
    where: str
    """For messages: ``prompts.jsonl line 12``."""


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
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise DataError(
            f"cannot load dataset {source.dataset} (config {source.config_name}, split "
            f"{source.split}, revision {source.revision}): {reason}. Check these names, and the "
            "network if the dataset is not on this machine."
        ) from error
    for number, values in enumerate(table, start=1):
        yield Row(dict(values), f"{source.dataset} {source.split} row {number}")


def _jsonl_rows(path: Path) -> Iterator[Row]:
    for number, line in _text_lines(path):
        where = f"{path} line {number}"
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(
                f"{where} is not valid JSON: {error.msg} at column {error.colno}; write one JSON "
                "object per line"
            ) from error
        if not isinstance(values, dict):
            raise DataError(
                f"{where} holds a {type(values).__name__}; write one JSON object per line"
            )
        yield Row(values, where)


def _csv_rows(path: Path) -> Iterator[Row]:
    lines = (line for _, line in _text_lines(path))
    reader = csv.reader(lines, strict=True)
    line = 1
    try:
        header = next(reader, None)
        if not header:
            raise DataError(f"{path} is empty; its first line must name the columns")
        if len(set(header)) < len(header):
            raise DataError(f"{path} line 1 names a column twice: {', '.join(header)}")
        line = reader.line_num + 1
        for cells in reader:
            if cells and len(cells) != len(header):
                raise DataError(
                    f"{path} line {line} has {len(cells)} cells, the header has {len(header)}; "
                    "quote cells that contain commas"
                )
            if cells:
                yield Row(dict(zip(header, cells, strict=True)), f"{path} line {line}")
            line = reader.line_num + 1
    except csv.Error as error:
        raise DataError(f"{path} line {line} is not valid CSV: {error}") from error


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            number = 0
            for batch in file.iter_batches(batch_size=1024):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(values, f"{path} row {number}")
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from error


def _text_lines(path: Path) -> Iterator[tuple[int, str]]:
    # Decoded line by line, so that an error names its line; a byte-order mark is skipped.
    try:
        with path.open("rb") as file:
            for number, raw in enumerate(file, start=1):
                try:
                    text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise DataError(
                        f"{path} line {number} is not UTF-8 text; save the file as UTF-8"
                    ) from error
                yield number, text
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from error
