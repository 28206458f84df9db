"""Randomness is an argument derived from a name: the same name gives the same number for ever."""

from __future__ import annotations

import hashlib


def derive_seed(run_seed: int, *path: str | int) -> int:
    """Seed for one named choice, in [0, 2^63).

    Stable across processes and versions (blake2b, never `hash()`). Names are length-prefixed, so
    ``("a", "bc")`` and ``("ab", "c")`` differ.
    """
    text = "".join(f"{len(str(part))}:{part}" for part in (run_seed, *path))
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
