"""Writing so that nothing half-written is ever mistaken for whole, and nothing whole is lost.

Every file is written beside its place under a temporary name, synced to disk, and renamed; then
the folder that holds the name is synced too. A reader sees the old file, the whole new one, or
none, and after a power cut finds whatever a later write relied on.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
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
SEAL = "seal"
"""Key of a sealed JSON object under which the digest of its other keys stands."""


@contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """Give a temporary path in the same folder; on success it replaces `path` atomically."""
    make_folder(path.parent)
    temporary = _temporary(path)
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # some writers make a file of their own, for the owner alone
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Give a temporary folder; on success it takes the place of `path`, which must not exist."""
    make_folder(path.parent)
    temporary = _temporary(path)
    temporary.mkdir()
    try:
        yield temporary
        for inner in sorted(temporary.rglob("*"), reverse=True):  # what is deeper comes first
            sync(inner)
        sync(temporary)
        temporary.rename(path)
        sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _temporary(path: Path) -> Path:
    return path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{path.suffix}"


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each on disk before anything is put into it."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        sync(place.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_folder(path: Path) -> None:
    """Delete a folder, if it is there; killed meanwhile it leaves nothing under its name."""
    if not path.exists():
        return
    doomed = _temporary(path)
    path.rename(doomed)
    sync(path.parent)
    shutil.rmtree(doomed)


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


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object with a digest of itself, by which any later change is noticed."""
    write_json(path, {**value, SEAL: _seal(value)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without the digest.

    Raises:
        RunError: As `read_json`, or the content is not what was written.
    """
    value = read_json(path)
    if value.pop(SEAL, None) != _seal(value):
        raise RunError(f"{path} is damaged, or was changed by hand: its seal does not fit")
    return value


def _seal(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


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
    """Write a Parquet file (zstd, a checksum per page)."""
    with replacing_file(path) as temporary:
        pq.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_table(path: Path, columns: list[str] | None = None) -> pa.Table:
    """Read a Parquet file, or only some of its columns.

    Raises:
        RunError: The file is missing or damaged.
    """
    try:
        return pq.ParquetFile(path, page_checksum_verification=True).read(columns=columns)
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing") from error
    except pa.ArrowException as error:
        raise RunError(f"{path} cannot be read as Parquet: {error}") from error
