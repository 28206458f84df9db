"""Figures of a sample stage against counts by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cream.loop.inference_stages import sample_summary
from cream.runs.tables import completions_to_table
from cream.types import Completion, FinishReason, Origin
from run_contents import stage_record, table


def completion(name: str, *token_ids: int, origin: Origin = Origin.POLICY) -> Completion:
    return Completion(
        prompt_id=name[0],
        completion_id=name,
        token_ids=token_ids,
        text="",
        finish_reason=FinishReason.LENGTH if token_ids[-1] == 9 else FinishReason.STOP,
        seed=0,
        sampling_logp=None if origin == Origin.DATA else -1.0,
        origin=origin,
    )


PARTS = [
    completions_to_table(
        [
            completion("a-d", 5, 6, 2, origin=Origin.DATA),
            completion("a-0", 5, 6, 2),
            completion("a-1", 5, 6, 2),
            completion("a-2", 5, 9),
        ]
    ),
    completions_to_table([completion("b-0", 5, 6, 2), completion("b-1", 2)]),
]
"""Sampled bigrams 56 62 | 56 62 | 59 || 56 62 | none: 7, of which 56, 62, 59 differ."""


def test_figures_of_sampled_completions_by_hand():
    assert sample_summary(PARTS).model_dump() == {
        "completions": 5,
        "tokens": 3 + 3 + 2 + 3 + 1,
        "truncated": 1,
        "distinct": 4,
        "duplicate_rate": pytest.approx(1 / 5),
        "distinct_2": pytest.approx(3 / 7),
        "distinct_2_completions": 5,
    }


@pytest.mark.parametrize(("limit", "share"), [(1, 2 / 2), (2, 2 / 4), (3, 3 / 5), (4, 3 / 7)])
def test_distinct_2_reads_the_first_completions_over_parts_and_says_how_many(limit, share):
    found = sample_summary(PARTS, max_distinct=limit).model_dump()

    assert found["distinct_2"] == pytest.approx(share)
    assert found["distinct_2_completions"] == limit
    assert (found["completions"], found["tokens"]) == (5, 12)


def test_rates_of_nothing_are_null():
    only_data = [PARTS[0].slice(0, 1)]
    no_bigram = [PARTS[1].slice(1, 1)]

    for parts in ([], only_data):
        found = sample_summary(parts).model_dump()
        assert (found["completions"], found["distinct_2_completions"]) == (0, 0)
        assert (found["duplicate_rate"], found["distinct_2"]) == (None, None)
    assert sample_summary(no_bigram).model_dump()["distinct_2"] is None
    assert sample_summary(no_bigram).model_dump()["duplicate_rate"] == 0


def bigrams(row: dict[str, Any]) -> list[tuple[int, int]]:
    return list(zip(row["token_ids"], row["token_ids"][1:], strict=False))


@pytest.mark.parametrize("t", [1, 2])
def test_a_run_writes_the_figures_of_its_samples(finished_run: Path, t: int):
    summary = stage_record(finished_run, f"iteration-{t}/sample")["summary"]
    rows = table(finished_run, f"iteration-{t}/sample")
    pairs = [pair for row in rows for pair in bigrams(row)]
    distinct = {(row["prompt_id"], *row["token_ids"]) for row in rows}

    assert summary["distinct_2"] == pytest.approx(len(set(pairs)) / len(pairs))
    assert summary["duplicate_rate"] == pytest.approx(1 - len(distinct) / len(rows))
    assert summary["distinct_2_completions"] == summary["completions"] == len(rows) == 32
