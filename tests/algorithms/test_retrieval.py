import math

import numpy as np
import pytest

from cream.algorithms.retrieval import ndcg, ordered_pairs, reciprocal_rank
from cream.algorithms.statistics import Absent


def test_ndcg_by_hand():
    """Grades 3, 2, 3, 0, 1, 2 as ranked: gains 3 + 2/log2 3 + 3/2 + 0 + 1/log2 6 + 2/log2 7."""
    ranked = [3.0, 2.0, 3.0, 0.0, 1.0, 2.0]
    gain = 3 + 2 / math.log2(3) + 3 / 2 + 1 / math.log2(6) + 2 / math.log2(7)
    best = 3 + 3 / math.log2(3) + 2 / 2 + 2 / math.log2(5) + 1 / math.log2(6)

    assert ndcg(ranked, ranked) == pytest.approx(gain / best)
    assert gain / best == pytest.approx(0.960808, abs=1e-6), "the textbook's 0.961"
    assert ndcg(sorted(ranked, reverse=True), ranked) == 1.0


def test_what_was_judged_and_not_ranked_counts_against_a_ranking():
    assert ndcg([1.0], [1.0, 1.0]) == pytest.approx(1 / (1 + 1 / math.log2(3)))


def test_only_the_first_ranks_count():
    assert ndcg([0.0, 1.0], [1.0], depth=1) == 0.0
    assert reciprocal_rank([0.0, 1.0], [1.0], depth=1) == 0.0
    assert reciprocal_rank([0.0, 0.0, 1.0, 1.0], [1.0, 1.0]) == pytest.approx(1 / 3)


def test_a_grade_counts_as_relevant_from_where_it_is_said():
    assert reciprocal_rank([1.0, 2.0], [1.0, 2.0], relevant=2.0) == 0.5


def test_without_anything_relevant_there_is_no_figure():
    assert ndcg([0.0], [0.0]) is Absent.ONE_CLASS
    assert reciprocal_rank([1.0], [1.0], relevant=2.0) is Absent.ONE_CLASS


def test_pairs_within_and_across_windows_are_told_apart():
    """Right within window 0 (1 of 1), across: (a, c) right, (a, d) tied, (b, c) wrong."""
    within, across = ordered_pairs(
        np.array([2.0, 1.0, 1.5, 2.0]), np.array([2.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1])
    )

    assert (within.right, within.total) == (1.0, 1)
    assert (across.right, across.total) == (1.5, 4)
    assert across.share == pytest.approx(0.375)


def test_equal_grades_are_no_pair():
    within, across = ordered_pairs(np.zeros(2), np.ones(2), np.array([0, 1]))

    assert within.share is Absent.ONE_CLASS
    assert across.total == 0
