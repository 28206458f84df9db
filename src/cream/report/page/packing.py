"""Explorer records as compressed shards: all of them, or a stratified sample that fits a page.

A shard is a JSON list of records, gzipped, in base64: an alphabet without ``<``, so no text of a
model can end the script element that carries it. The index holds the columns to filter by and
where each shard begins.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cream.report.page.entries import Entry

SHARD_CHARACTERS = 400_000
"""JSON text of a shard, about: what one click unpacks. A longer record is a shard of its own."""
EMBED_LIMIT = 30_000_000
"""Bytes of records, compressed and encoded, that a page of one file holds."""

Source = Callable[[], Iterator[tuple[int, Entry]]]
"""Gives (number of the run, entry) anew from the start each time it is called."""


@dataclass
class Index:
    """Columns of the entries packed so far, in the order of the shards."""

    rows: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in COLUMNS})
    names: dict[str, dict[str, int]] = field(
        default_factory=lambda: {"sets": {}, "tasks": {}, "outcomes": {}}
    )
    shards: list[int] = field(default_factory=list)
    """Number of the first entry of each shard."""

    def __len__(self) -> int:
        return len(self.rows["id"])

    def add(self, run: int, entry: Entry) -> None:
        """Append one entry."""
        right = {None: 0, True: 1, False: 2}[entry.right]
        values = {
            "id": entry.prompt_id,
            "label": entry.label,
            "run": run,
            "set": self._code("sets", entry.set_key),
            "task": self._code("tasks", entry.task),
            "outcome": self._code("outcomes", entry.outcome),
            "right": right,
            "change": {"": 0, "gained": 1, "lost": 2}[entry.change],
            "reversed": int(entry.reversed),
            "c": entry.consistency,
        }
        for name, value in values.items():
            self.rows[name].append(value)

    def value(self) -> dict[str, Any]:
        """As a JSON value."""
        names = {kind: list(codes) for kind, codes in self.names.items()}
        return {"rows": self.rows, **names, "shards": self.shards}

    def _code(self, kind: str, name: str) -> int:
        return self.names[kind].setdefault(name, len(self.names[kind]))


COLUMNS = ("id", "label", "run", "set", "task", "outcome", "right", "change", "reversed", "c")


def compress(value: Any) -> str:
    """A JSON value as base64 of gzip; the same value gives the same text."""
    raw = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A lone surrogate cannot be UTF-8; it could not have come from a Parquet file either.
    return base64.b64encode(gzip.compress(raw.encode(), compresslevel=6, mtime=0)).decode()


def shards(entries: Iterable[tuple[int, Entry]], index: Index) -> Iterator[str]:
    """Fill `index` and give the shards one at a time."""
    held: list[Mapping[str, Any]] = []
    characters = 0
    for run, entry in entries:
        size = _characters(entry.detail)
        if held and characters + size > SHARD_CHARACTERS:
            yield compress(held)
            held, characters = [], 0
        if not held:
            index.shards.append(len(index))
        index.add(run, entry)
        held.append(entry.detail)
        characters += size
    if held:
        yield compress(held)


def _characters(value: Any) -> int:
    """Roughly the length of a JSON text, without making it."""
    if isinstance(value, str):
        return len(value) + 2
    if isinstance(value, Mapping):
        return sum(len(key) + 4 + _characters(inner) for key, inner in value.items())
    if isinstance(value, list | tuple):
        return 2 + sum(map(_characters, value))
    return 6


@dataclass(frozen=True)
class Packed:
    """Records ready to be embedded."""

    index: Index
    shards: tuple[str, ...]
    total: int
    """Prompts there are; ``len(index)`` are shown."""

    @property
    def sampled(self) -> bool:
        """Whether some prompts are left out."""
        return len(self.index) < self.total


def pack(source: Source, *, limit: int = EMBED_LIMIT) -> Packed:
    """Pack every entry, or a sample if the shards would exceed `limit` bytes.

    The sample keeps sets, tasks, outcomes and right or wrong in proportion. Which prompts it holds
    follows from their ids alone, so the same run gives the same page.
    """
    order: list[tuple[float, str]] = []
    index, kept, size = _pack(_counted(source(), order), limit)
    total = len(index)
    count = total
    while size > limit:
        count = int(count * min(0.95 * limit / size, 0.95))
        chosen = {key for _, key in sorted(order)[:count]}
        wanted = ((run, e) for run, e in source() if _key(run, e) in chosen)
        index, kept, size = _pack(wanted, limit)
    return Packed(index, tuple(kept), total)


def _pack(entries: Iterable[tuple[int, Entry]], limit: int) -> tuple[Index, list[str], int]:
    """Index, shards and their bytes; shards are not kept once there are too many."""
    index, kept, size = Index(), [], 0
    for shard in shards(entries, index):
        size += len(shard)
        if size <= limit:
            kept.append(shard)
    return index, kept, size


def _counted(
    entries: Iterable[tuple[int, Entry]], order: list[tuple[float, str]]
) -> Iterator[tuple[int, Entry]]:
    """Pass entries on; at the end, fill `order` with each one's place in a stratified sample.

    An entry's place is (its rank in its stratum - 1/2) / the stratum's size: taking the first ones
    by place takes the same share of every stratum.
    """
    strata: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for run, entry in entries:
        stratum = (run, entry.set_key, entry.task, entry.outcome, entry.right)
        strata[stratum].append(_key(run, entry))
        yield run, entry
    for keys in strata.values():
        keys.sort(key=lambda key: hashlib.blake2b(key.encode(), digest_size=8).digest())
        order += [((rank + 0.5) / len(keys), key) for rank, key in enumerate(keys)]


def _key(run: int, entry: Entry) -> str:
    return f"{run}/{entry.set_key}/{entry.prompt_id}"
