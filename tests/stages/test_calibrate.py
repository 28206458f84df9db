"""Pairs of known truth are counted by what the reward says and what the witness says."""

import numpy as np
import pytest

from cream.errors import DataError
from cream.recipe.pairing import BestWorst
from cream.recipe.parts import LogpQuantity
from cream.stages.witnesses import calibrate
from cream.types import ScoreMatrix

REWARD = LogpQuantity(unit="likelihood", model="R")
WITNESS = LogpQuantity(unit="likelihood", model="W")


def matrix(sizes, reward, witness, *, ids=None, truncated=None):
    count = len(reward)
    return ScoreMatrix(
        prompt_ids=np.array([f"p{i}" for i in range(len(sizes))], dtype=object),
        group_offsets=np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64),
        completion_ids=np.array([f"c{i}" for i in range(count)], dtype=object),
        num_tokens=np.ones(count, dtype=np.int32),
        truncated=np.array(truncated or [False] * count),
        ids_hash=np.array(ids or range(count), dtype=np.int64),
        logps={"R": np.array(reward, dtype=float), "W": np.array(witness, dtype=float)},
        noise={"R": 0.1, "W": 0.1},
    )


def counted(table, gold, wrong, rule=None):
    found = calibrate(
        table,
        np.array(gold, dtype=bool),
        np.array(wrong, dtype=bool),
        REWARD,
        WITNESS,
        rule or BestWorst(),
        source="test",
    )
    return found.agree_right, found.agree_total, found.disagree_right, found.disagree_total


def test_each_of_the_four_cases_is_counted_once():
    """Gold (first) has reward 0 and witness 0. Against it, in turn: both rank gold higher (agree,
    right); the witness alone ranks it lower (disagree, right); the reward alone (disagree, wrong);
    both (agree, wrong)."""
    table = matrix([5], [0, -1, -1, 1, 1], [0, -1, 1, -1, 1])

    assert counted(table, [1, 0, 0, 0, 0], [0, 1, 1, 1, 1]) == (1, 2, 1, 2)


def test_gold_is_compared_within_its_prompt_only():
    """Two prompts with one pair each; across prompts there would be four."""
    table = matrix([2, 2], [0, -1, 0, -1], [0, -1, 0, -1])

    assert counted(table, [1, 0, 1, 0], [0, 1, 0, 1]) == (2, 2, 0, 0)


def test_differences_within_the_noise_are_no_word():
    """Noise 0.1: a reward gap of 0.05 makes no pair, a witness gap of 0.05 says nothing."""
    table = matrix([3], [0, -0.05, -1], [0, -1, -0.05])

    assert counted(table, [1, 0, 0], [0, 1, 1]) == (0, 0, 0, 0)


def test_a_copy_is_not_evidence_and_a_right_answer_in_other_words_not_wrong():
    """Rows: gold, a wrong answer, its copy, and one that is neither gold nor wrong."""
    table = matrix([4], [0, -1, -1, -1], [0, -1, -1, -1], ids=[1, 2, 2, 3])

    assert counted(table, [1, 0, 0, 0], [0, 1, 1, 0]) == (1, 1, 0, 0)


def test_truncated_answers_count_only_if_the_method_pairs_them():
    table = matrix([2], [0, -1], [0, -1], truncated=[False, True])

    assert counted(table, [1, 0], [0, 1]) == (0, 0, 0, 0)
    assert counted(table, [1, 0], [0, 1], BestWorst(truncated="keep")) == (1, 1, 0, 0)


def test_a_completion_cannot_be_right_and_wrong():
    with pytest.raises(DataError, match="both"):
        counted(matrix([2], [0, -1], [0, -1]), [1, 0], [1, 1])
