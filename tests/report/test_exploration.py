"""Exploration apart for prompts that M1 answers rightly and wrongly, counted by hand."""

import pyarrow as pa
import pytest

from cream.report.exploration import exploration_of


def answers(**by_prompt: tuple[str, list[str]]) -> pa.Table:
    """The greedy answer and the samples of each prompt; ``r`` and what begins with it is right."""
    rows = [
        {"prompt_id": key, "index": index, "text": text, "correct": text.startswith("r")}
        for key, (greedy, samples) in by_prompt.items()
        for index, text in [(-1, greedy), *enumerate(samples)]
    ]
    return pa.Table.from_pylist(rows)


M1 = answers(a=("r", ["r", "r"]), b=("x", ["x", "r"]), c=("x", ["x", "x"]))
M2 = answers(a=("x", ["x", "r2"]), b=("r", ["r", "r"]), c=("x", ["y", "z"]))


def test_prompts_are_divided_by_m1s_greedy_answer_for_every_model():
    """M1: a right; b and c wrong. Of b and c M2 has 2 of 2 and 0 of 2 right: mean@2 = pass@2 = 1/2,
    and 1 and 2 different answers."""
    first, second = exploration_of({"M1": M1, "M2": M2})

    assert (first.model, second.model, second.k) == ("M1", "M2", 2)
    assert (second.first_right.n, second.first_wrong.n) == (1, 2)
    assert second.first_right.greedy == 0.0
    assert second.first_right.mean_at_k == 0.5
    assert second.first_right.pass_at_k == 1.0
    assert second.first_wrong.greedy == 0.5
    assert second.first_wrong.mean_at_k == 0.5
    assert second.first_wrong.pass_at_k == 0.5
    assert second.first_wrong.different == 1.5
    assert first.first_wrong.mean_at_k == pytest.approx(1 / 4)
    assert first.first_wrong.pass_at_k == 0.5


def test_there_is_none_without_m1_or_samples():
    assert exploration_of({"M2": M2}) == []
    greedy = answers(a=("r", []), b=("x", []))
    assert exploration_of({"M1": greedy, "M2": greedy}) == []


def test_a_side_without_prompts_is_absent_and_not_0():
    right = answers(a=("r", ["r", "x"]))
    (found,) = exploration_of({"M1": right})

    assert found.first_wrong.n == 0
    assert found.first_wrong.pass_at_k is None
    assert found.first_right.mean_at_k == 0.5
