"""Groups of completions as padded ``[prompt, member]`` arrays, with duplicates collapsed.

The score matrix is flat (one row per completion); every decision of the method is taken inside one
prompt's group. Padding turns a Python loop over prompts into array operations. What a padded cell
holds is never read: each function takes the mask of the cells that count.

Duplicates (equal token ids in one group) are evidence once, not twice: the first copy stands for
all of them and keeps their number, which votes need. The reference code counts every copy
(arXiv 2410.12735, ``cal_consistency.py``), which makes a collapsed sampler look consistent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64, Integer

from cream.errors import DataError

CELLS_PER_CHUNK = 1 << 19
"""Array cells a chunked operation may hold at once: 4 MiB of float64, about a core's cache."""


@dataclass(frozen=True)
class Groups:
    """Where the rows of a score matrix sit in a padded array, and which of them are distinct."""

    rows: Int64[np.ndarray, "prompt member"]
    """Row of the score matrix, or -1 where a group has no such member."""
    ids_hash: Int64[np.ndarray, "prompt member"]
    """Hash of the token ids; 0 in padding."""
    multiplicity: Int64[np.ndarray, "prompt member"]
    """Copies a member stands for: >= 1 for the first copy, 0 for later copies and padding."""

    @property
    def present(self) -> Bool[np.ndarray, "prompt member"]:
        """True for every completion, copies included."""
        return self.rows >= 0

    @property
    def distinct(self) -> Bool[np.ndarray, "prompt member"]:
        """True for the first copy of every completion: what ranks, votes and pairs are made of."""
        return self.multiplicity > 0

    def __getitem__(self, prompts: slice) -> Groups:
        return Groups(self.rows[prompts], self.ids_hash[prompts], self.multiplicity[prompts])


def group_rows(
    group_offsets: Int64[np.ndarray, " prompt_plus_one"],
    ids_hash: Int64[np.ndarray, " completion"],
) -> Groups:
    """Lay flat rows out as padded groups and collapse the duplicates of each group.

    Args:
        group_offsets: Group g holds rows ``group_offsets[g]:group_offsets[g + 1]``.
        ids_hash: Hash of each row's token ids; equal hashes in one group are duplicates.

    Raises:
        DataError: the offsets do not start at 0, decrease, or do not end at the number of rows.

    """
    sizes = np.diff(group_offsets)
    starts_and_ends = (
        group_offsets[[0, -1]] if len(group_offsets) else np.array([-1, -1])
    ).tolist()
    if starts_and_ends != [0, len(ids_hash)] or (sizes < 0).any():
        raise DataError(
            f"group offsets must rise from 0 to {len(ids_hash)} (the number of completions), but "
            f"start and end are {starts_and_ends}; the score matrix is damaged, score again."
        )
    member = np.arange(sizes.max(initial=1), dtype=np.int64)  # one column even without members
    rows = np.where(member < sizes[:, None], member + group_offsets[:-1, None], -1)
    prompt_of_row = np.repeat(np.arange(len(sizes)), sizes)
    copies = _copies_at_first(prompt_of_row, ids_hash)
    present = rows >= 0
    padded_hash = np.zeros(rows.shape, dtype=np.int64)
    padded_hash[present] = ids_hash
    multiplicity = np.zeros(rows.shape, dtype=np.int64)
    multiplicity[present] = copies
    return Groups(rows, padded_hash, multiplicity)


def _copies_at_first(
    prompt_of_row: Int64[np.ndarray, " completion"], ids_hash: Int64[np.ndarray, " completion"]
) -> Int64[np.ndarray, " completion"]:
    """Return the number of copies at each first copy, and 0 at the later ones."""
    order = np.lexsort((ids_hash, prompt_of_row))  # stable, so the first copy leads its run
    starts = np.ones(len(order), dtype=bool)
    starts[1:] = (np.diff(ids_hash[order]) != 0) | (np.diff(prompt_of_row[order]) != 0)
    run_starts = np.flatnonzero(starts)
    copies = np.zeros(len(order), dtype=np.int64)
    copies[order[run_starts]] = np.diff(run_starts, append=len(order))
    return copies


def pad(
    column: Float64[np.ndarray, " completion"], groups: Groups
) -> Float64[np.ndarray, "prompt member"]:
    """Lay a flat column out as ``[prompt, member]``, NaN in padding."""
    padded = np.full(groups.rows.shape, np.nan)
    padded[groups.present] = column  # rows of a group are consecutive, so the order is the same
    return padded


def pad_counts(
    column: Integer[np.ndarray, " completion"], groups: Groups
) -> Int64[np.ndarray, "prompt member"]:
    """Lay a flat column of counts (such as ``num_tokens``) out, 0 in padding."""
    padded = np.zeros(groups.rows.shape, dtype=np.int64)
    padded[groups.present] = column
    return padded


def pad_flags(
    column: Bool[np.ndarray, " completion"], groups: Groups
) -> Bool[np.ndarray, "prompt member"]:
    """Lay a flat column of flags (such as ``truncated``) out, False in padding."""
    padded = np.zeros(groups.rows.shape, dtype=bool)
    padded[groups.present] = column
    return padded


def among_copies(
    column: Bool[np.ndarray, " completion"], groups: Groups
) -> Bool[np.ndarray, "prompt member"]:
    """Lay flags out so that each completion has a flag that any of its copies has."""
    flagged = pad_flags(column, groups)
    spread = np.zeros_like(flagged)
    num_prompts, width = flagged.shape
    for rows in chunks(num_prompts, width * width):
        ids, present = groups.ids_hash[rows], groups.present[rows]
        copies = (ids[:, :, None] == ids[:, None, :]) & present[:, None, :]
        spread[rows] = (copies & flagged[rows, None, :]).any(axis=2) & present
    return spread


def chunks(num_prompts: int, cells_per_prompt: int) -> Iterator[slice]:
    """Cut prompts into slices of at most `CELLS_PER_CHUNK` cells (but at least one prompt)."""
    step = max(1, CELLS_PER_CHUNK // max(1, cells_per_prompt))
    for start in range(0, num_prompts, step):
        yield slice(start, min(start + step, num_prompts))


def equal_sizes(
    counted: Bool[np.ndarray, "prompt member"],
) -> Iterator[tuple[Int64[np.ndarray, " group"], Int64[np.ndarray, "group counted"]]]:
    """Yield prompts with the same number (>= 2) of counted members, and which members these are.

    A bucket has no padding, so what is computed on it needs no mask, and a few large groups do not
    make all others expensive. Buckets are cut so that ``[group, counted, counted]`` arrays stay
    within `CELLS_PER_CHUNK`.
    """
    num_counted = counted.sum(axis=1)
    members = np.argsort(~counted, axis=1, kind="stable")
    for size in np.unique(num_counted[num_counted >= 2]).tolist():
        prompts = np.flatnonzero(num_counted == size)
        for part in chunks(len(prompts), size * size):
            yield prompts[part], members[prompts[part], :size]
