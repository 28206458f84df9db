"""Random score tables for the tests of this room: ties, duplicates, missing scores, any sizes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cream.algorithms.groups import Groups, group_rows, pad, pad_flags
from cream.algorithms.rewards import Reward


@dataclass(frozen=True)
class Table:
    offsets: np.ndarray
    ids_hash: np.ndarray
    first: np.ndarray
    second: np.ndarray
    truncated: np.ndarray

    @property
    def groups(self) -> Groups:
        return group_rows(self.offsets, self.ids_hash)

    def reward(self, column: np.ndarray, noise: float = 0.0) -> Reward:
        values = pad(column, self.groups)
        return Reward(values, np.full_like(values, noise))

    @property
    def cut_off(self) -> np.ndarray:
        return pad_flags(self.truncated, self.groups)

    def reorder(self, prompts: np.ndarray, rng: np.random.Generator) -> tuple[Table, np.ndarray]:
        """Permute prompts as given and completions inside them at random; new row -> old row."""
        bounds = self.offsets.tolist()
        slices = [np.arange(bounds[p], bounds[p + 1]) for p in prompts.tolist()]
        rows = np.concatenate([rng.permutation(s) for s in slices])
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in slices])]).astype(np.int64)
        columns = (self.ids_hash, self.first, self.second, self.truncated)
        return Table(offsets, *(column[rows] for column in columns)), rows


def random_table(rng: np.random.Generator, num_prompts: int, largest: int) -> Table:
    """Values lie on a coarse grid (ties); equal tokens have equal values (duplicates)."""
    sizes = rng.integers(0, largest + 1, num_prompts)
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    total = int(offsets[-1])
    tokens = rng.integers(0, 2 * largest, total)  # which completion it is, so some are equal
    prompt = np.repeat(np.arange(num_prompts), sizes)
    content = rng.integers(-4, 5, (3, num_prompts, 2 * largest)).astype(float)
    content[:2][rng.random((2, num_prompts, 2 * largest)) < 0.1] = np.nan
    first, second, third = content[:, prompt, tokens]
    hashes = rng.permutation(2 * largest).astype(np.int64)[tokens]
    return Table(offsets, hashes, first, second, third > 2)
