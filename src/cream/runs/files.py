"""Writing so that nothing half-written is ever mistaken for whole.

Every file is written beside its place under a temporary name, flushed to disk, and renamed.
A reader sees the old file, the whole new one, or none.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cream.errors import RunError

TEMPORARY_PREFIX = ".tmp-"
"""Names starting so are leftovers of an interrupted write and may be deleted."""


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it replaces `path` atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=TEMPORARY_PREFIX, suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as stream:
            os.fsync(stream.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder; on success it takes the place of `path`, which must not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY_PREFIX, dir=path.parent))
    try:
        yield temporary
        temporary.chmod(0o755)
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete what interrupted writes left directly under `folder`."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        if leftover.is_dir():
            shutil.rmtree(leftover)
        else:
            leftover.unlink()


def free_bytes(folder: Path) -> int:
    """Free space where `folder` is or would be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object; NaN and infinities are refused (absence is null with a reason)."""
    with replacing_file(path) as temporary:
        text = json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: The file is missing, not JSON, or not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise RunError(f"{path} is not valid JSON ({error}); it was changed by hand") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is not a JSON object; it was changed by hand")
    return value


def write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, keys in the order given."""
    with replacing_file(path) as temporary:
        text = yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        RunError: The file is missing, not YAML, or not a mapping.
    """
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RunError(f"{path} is not valid YAML ({error}); it was changed by hand") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is not a mapping; it was changed by hand")
    return value


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file (zstd)."""
    with replacing_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or only some of its columns.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        return pq.ParquetFile(path).read(columns=columns)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing") from error
    except pa.ArrowException as error:
        raise RunError(f"{path} cannot be read as Parquet: {error}") from error
