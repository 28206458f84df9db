"""Whether files are still what was written: a digest of each, kept beside the stage that wrote it.

Size and time of change are the cheap first look; where they differ from the record, or where a look
is not enough, the content is read. A content that was checked is not read again by this process
unless the file system says that the file was touched.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from cream.errors import RunError
from cream.records import Record, StageSpec
from cream.runs.files import read_sealed, sync

_CHUNK = 1 << 20

MAKE_AGAIN = "delete its folder (and those of later stages) to make it again"
"""What to do about a stage whose record is of no use."""

Fault = Literal["missing", "changed", "damaged", "added"]
"""A file is gone; has another size; has the size and another content; or was not written here."""

IN_WORDS: Mapping[Fault, str] = {
    "missing": "is missing",
    "changed": "was changed: it has another size than when it was written",
    "damaged": "is damaged: its size is right and its content is not what was written",
    "added": "was added: the stage did not write it",
}


class FileMark(Record):
    """What is kept of a file that a stage wrote."""

    bytes: int
    mtime_ns: int
    """Time of change. Another time alone is no fault; it asks for a look at the content."""
    blake2b: str
    """Digest of the content, 32 bytes in hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Damage:
    """A file that is not what its stage wrote."""

    path: Path
    fault: Fault

    def __str__(self) -> str:
        return f"{self.path} {IN_WORDS[self.fault]}"


def digest(path: Path) -> str:
    """Digest of a file's content, read in pieces."""
    state = hashlib.blake2b(digest_size=32)
    with path.open("rb") as stream:
        while piece := stream.read(_CHUNK):
            state.update(piece)
    return state.hexdigest()


def mark(path: Path) -> FileMark:
    """What is to be kept of a file."""
    stat = path.stat()
    return FileMark(bytes=stat.st_size, mtime_ns=stat.st_mtime_ns, blake2b=digest(path))


def mark_files(folder: Path, *, kept: Callable[[Path], bool]) -> dict[str, FileMark]:
    """Put every file below `folder` on the disk, with the names that lead to it, and mark it.

    Args:
        folder: Where they are.
        kept: Which files count.

    Returns:
        Marks by path relative to `folder`, sorted.
    """
    marks = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file() and kept(p)):
        sync(path)
        marks[path.relative_to(folder).as_posix()] = mark(path)
    for place in sorted((p for p in folder.rglob("*") if p.is_dir()), reverse=True):
        sync(place)
    sync(folder)
    return marks


def read_marks(source: Path, value: Any) -> dict[str, FileMark]:
    """Marks as a record keeps them.

    Raises:
        RunError: They are not of that form.
    """
    try:
        return {str(name): FileMark.model_validate(mark) for name, mark in dict(value).items()}
    except (ValidationError, TypeError, ValueError) as error:
        raise RunError(
            f"{source} does not say what its files were like; it was changed by hand, or written "
            "by another version: delete its folder (and those of later stages) to make it again"
        ) from error


def damages(folder: Path, marks: Mapping[str, FileMark], *, full: bool) -> Iterator[Damage]:
    """Files that are not what they were marked as.

    Args:
        folder: Where they are.
        marks: By path relative to `folder`.
        full: Look at the content of all, not only of those whose time of change is another.
    """
    for name, mark in marks.items():
        fault = _fault(folder / name, mark, full=full)
        if fault is not None:
            yield Damage(folder / name, fault)


_checked: set[tuple[Any, ...]] = set()
"""Contents that this process has found right: place, times and size of the file, and its digest."""


def _fault(path: Path, mark: FileMark, *, full: bool) -> Fault | None:
    try:
        stat = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    if stat.st_size != mark.bytes:
        return "changed"
    if not full and stat.st_mtime_ns == mark.mtime_ns:
        return None
    place = (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, mark)
    if place in _checked:
        return None
    if digest(path) != mark.blake2b:
        return "damaged"
    _checked.add(place)
    return None


def _sealed(path: Path) -> dict[str, Any]:
    try:
        return read_sealed(path)
    except RunError as error:
        raise RunError(f"{error}; {MAKE_AGAIN}") from error


def read_begun(path: Path) -> dict[str, Any]:
    """What determines a stage that is under way, its parts, and what has computed them.

    Raises:
        RunError: It was changed by hand.
    """
    record = _sealed(path)
    if not isinstance(record.get("inputs"), dict) or not isinstance(record.get("made_by"), list):
        raise RunError(f"{path} says no inputs; it was changed by hand: {MAKE_AGAIN}")
    return record


def read_record(path: Path) -> dict[str, Any]:
    """A finished mark.

    Raises:
        RunError: It was changed by hand.
    """
    record = _sealed(path)
    keys = {"spec", "fingerprint", "inputs", "files", "model_files", "seconds", "summary"}
    absent = keys - record.keys()
    if absent:
        raise RunError(
            f"{path} lacks {', '.join(sorted(absent))}; it was changed by hand, or written by "
            f"another version: {MAKE_AGAIN}"
        )
    return record


def read_spec(path: Path, value: Any) -> StageSpec:
    """The spec that a finished mark holds.

    Raises:
        RunError: It was changed by hand.
    """
    try:
        return StageSpec.model_validate(value)
    except ValidationError as error:
        raise RunError(
            f"{path}: `spec` does not describe a stage; it was changed by hand: {MAKE_AGAIN}"
        ) from error
