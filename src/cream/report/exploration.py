"""Exploration beside accuracy: what samples find, apart for prompts that M1 answers rightly or not.

A term that makes the policy explore may find more right answers where its likeliest answer is
wrong, and lose some where it is right; one mean over all prompts would show neither. The prompts
are divided once, by M1's greedy answer, so that models are compared on the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from cream.algorithms.statistics import mean_at_k, pass_at_k
from cream.records import Count, Rate, Record
from cream.runs.reader import RunReader, rows_of


class FoundBySamples(Record):
    """What the k samples per prompt of a model found, over some prompts."""

    n: Count
    """Prompts."""
    greedy: Rate | None
    """Share whose greedy answer is right; null without prompts, as what follows."""
    mean_at_k: Rate | None
    pass_at_k: Rate | None
    """Unbiased (Chen et al. 2021, arXiv 2107.03374)."""
    different: float | None
    """Different answers among the k samples, mean over prompts, 1 to k."""


class Exploration(Record):
    """Of one model."""

    model: str
    k: Count
    """Samples per prompt."""
    first_right: FoundBySamples
    """Test prompts that M1 answers rightly, greedily."""
    first_wrong: FoundBySamples
    """The others."""


def exploration_of(evaluated: Mapping[str, pa.Table]) -> list[Exploration]:
    """Exploration of every evaluated model; none without M1, or without samples.

    Args:
        evaluated: Answers by model: columns ``prompt_id``, ``index``, ``text``, ``correct``.
    """
    if "M1" not in evaluated:
        return []
    by_prompt = {
        key: correct
        for key, index, correct in rows_of(evaluated["M1"], "prompt_id", "index", "correct")
        if index == -1
    }
    found = []
    for model, table in evaluated.items():
        right, wrong = (
            _found(table, {key for key, correct in by_prompt.items() if correct == was})
            for was in (True, False)
        )
        k = max(right[1], wrong[1])
        if k:
            found.append(Exploration(model=model, k=k, first_right=right[0], first_wrong=wrong[0]))
    return found


def exploration_of_run(run: RunReader) -> list[Exploration]:
    """Of the evaluated models of a run that trains with an optimism term; else none."""
    if all(parts.answer is None for parts in run.plan.parts.values()):
        return []
    columns = ("prompt_id", "index", "text", "correct")
    return exploration_of({name: stage.table(columns) for name, stage in run.evaluations.items()})


def _found(table: pa.Table, prompts: set[str]) -> tuple[FoundBySamples, int]:
    """What was found on some prompts, and the samples per prompt."""
    greedy, samples = [], dict[str, list[tuple[str, bool]]]()
    for key, index, text, correct in rows_of(table, "prompt_id", "index", "text", "correct"):
        if key in prompts and index == -1:
            greedy.append(bool(correct))
        elif key in prompts:
            samples.setdefault(key, []).append((text, bool(correct)))
    if not greedy or not samples:
        absent = {"greedy": None, "mean_at_k": None, "pass_at_k": None, "different": None}
        return FoundBySamples(n=len(greedy), **absent), 0
    right = np.array([sum(correct for _, correct in found) for found in samples.values()])
    total = np.array([len(found) for found in samples.values()])
    k = int(total[0])
    return (
        FoundBySamples(
            n=len(greedy),
            greedy=sum(greedy) / len(greedy),
            mean_at_k=float(np.mean(mean_at_k(right, total))),
            pass_at_k=float(np.mean(pass_at_k(right, total, k=k))),
            different=float(np.mean([len({t for t, _ in found}) for found in samples.values()])),
        ),
        k,
    )
