"""Writing so that nothing half-written is ever mistaken for whole, and nothing whole is lost.

Every file is written beside its place under a temporary name, synced to disk, and renamed; then
the folder that holds the name is synced too. A reader sees the old file, the whole new one, or
none, and after a power cut finds whatever a later write relied on.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from cream.errors import RecipeError, RunError
from cream.recipe.load import parse_yaml

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
        with _naming(path):
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
        with _naming(path):
            yield temporary
            for inner in sorted(temporary.rglob("*"), reverse=True):  # what is deeper comes first
                sync(inner)
            sync(temporary)
            temporary.rename(path)
            sync(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Have a full disk named with the file, whichever library met it and however it says so."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and TEMPORARY_PREFIX not in str(error.filename):
            raise
        number = errno.ENOSPC if _FULL in str(error) else error.errno
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error
    except Exception as error:
        if _FULL not in str(error):
            raise
        raise OSError(errno.ENOSPC, _FULL, str(path)) from error


_FULL = os.strerror(errno.ENOSPC)


def _temporary(path: Path) -> Path:
    return path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}{path.suffix}"


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each on disk before anything is put into it."""
    missing = [place for place in (path, *path.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        sync(place.parent)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, are on the disk.

    Raises:
        OSError: They may not be; it names the path.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def refuse_links(root: Path, *, without: Collection[str] = ()) -> None:
    """Refuse symbolic links below a folder that lead out of it: nothing is written through them.

    Args:
        root: The folder; it may be reached through links itself.
        without: Names directly in it that are not looked at.

    Raises:
        RunError: There is one.
    """
    inside, left_out = root.resolve(), {root / name for name in without}
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_symlink():
                    target = Path(entry.path).resolve()
                    if target != inside and inside not in target.parents:
                        raise RunError(
                            f"{entry.path} is a link that leads out of {root}; put what it leads "
                            "to in its place, or set run_dir to a folder on the other disk"
                        )
                elif entry.is_dir() and Path(entry.path) not in left_out:
                    folders.append(Path(entry.path))


def remove_folder(path: Path) -> None:
    """Delete a folder, if it is there; killed meanwhile it leaves nothing under its name."""
    if path.is_symlink():
        path.unlink()
        return
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


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, made if need be, against other processes; a link there is not followed.

    Raises:
        RunError: Another process holds it, or it cannot be held.
    """
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise RunError(
            f"{path} cannot be opened ({error.strerror}); it must be an ordinary file in a folder "
            "that can be written: remove it, or choose another folder (run_dir, --out)"
        ) from error
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunError(f"another cream process is using {path.parent}") from error
        except OSError as error:
            raise RunError(
                f"{path} cannot be locked ({error.strerror}); choose a folder on a file system "
                "with locks (run_dir, --out)"
            ) from error
        yield
    finally:
        os.close(handle)


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


MAX_JSON_BYTES = 1 << 28
"""Of a JSON record of a run; those of the largest have a few million."""


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        RunError: The file is missing, not JSON, or not an object.
    """
    try:
        size = path.stat().st_size
        if size > MAX_JSON_BYTES:
            raise RunError(f"{path} has {size} bytes, more than any record; it was changed by hand")
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_number)
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} is not valid JSON ({error}); it was changed by hand") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} is not a JSON object; it was changed by hand")
    return value


def write_sealed(path: Path, value: Mapping[str, Any]) -> None:
    """Write an object, as YAML or JSON by the suffix, with a digest of itself."""
    write = write_yaml if path.suffix == ".yaml" else write_json
    write(path, {**value, SEAL: _seal(value)})


def read_sealed(path: Path, *, required: bool = True) -> dict[str, Any]:
    """Read what `write_sealed` wrote, without the digest, by which any later change is noticed.

    Args:
        path: The file.
        required: Whether a file without a digest is refused too; earlier versions wrote some so.

    Raises:
        RunError: As `read_json`, or the content is not what was written.
    """
    value = read_yaml(path) if path.suffix == ".yaml" else read_json(path)
    if SEAL not in value and not required:
        return value
    seal = value.pop(SEAL, None)
    try:
        fits = seal == _seal(value)
    except ValueError:  # a text that is no Unicode: nothing that was written
        fits = False
    if not fits:
        raise RunError(f"{path} is damaged, or was changed by hand: its seal does not fit")
    return value


def _seal(value: Mapping[str, Any]) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_yaml(path: Path, value: Mapping[str, Any]) -> None:
    """Write a mapping as YAML, keys in the order given."""
    with replacing_file(path) as temporary:
        temporary.write_text(yaml_text(value), encoding="utf-8")


def yaml_text(value: Mapping[str, Any]) -> str:
    """What `write_yaml` writes."""
    return yaml.safe_dump(dict(value), sort_keys=False, allow_unicode=True)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML mapping.

    Raises:
        RunError: The file is missing, not YAML, or not a mapping.
    """
    try:
        value = parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror}") from error
    except (RecipeError, UnicodeDecodeError) as error:
        raise RunError(f"{path} cannot be read: {error}; it was changed by hand") from error
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
    except (pa.ArrowException, OSError, ValueError, MemoryError) as error:
        raise RunError(f"{path} cannot be read as Parquet: {error}") from error
