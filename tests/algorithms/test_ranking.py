from typing import Any

import numpy as np
import pytest
import scipy.stats
from score_tables import random_table

from cream.algorithms.ranking import (
    Definedness,
    by_position,
    kendall_tau,
    spearman,
    top_order,
    weighted_tau,
)
from cream.algorithms.rewards import Reward, exact

STATISTICS = [kendall_tau, spearman, weighted_tau, top_order]


def compare(statistic, first, second, noise=0.0):
    values_1, values_2 = np.array([first], dtype=float), np.array([second], dtype=float)
    reward = Reward(values_1, np.full_like(values_1, noise))
    agreement = statistic(reward, exact(values_2), np.ones(values_1.shape, dtype=bool))
    return agreement.values[0], Definedness(agreement.definedness[0])


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [(kendall_tau, scipy.stats.kendalltau), (spearman, scipy.stats.spearmanr)],
)
def test_statistic_equals_scipy_on_random_tied_data(ours, theirs):
    table = random_table(np.random.default_rng(0), 400, 12)
    distinct = table.groups.distinct
    first, second = table.reward(table.first), table.reward(table.second)
    agreement = ours(first, second, distinct)
    num_defined = 0
    for prompt, value in enumerate(agreement.values):
        both = distinct[prompt] & first.scored[prompt] & second.scored[prompt]
        x, y = first.values[prompt, both], second.values[prompt, both]
        if len(x) < 2 or len(set(x)) < 2 or len(set(y)) < 2:
            assert np.isnan(value)
            continue
        num_defined += 1
        assert value == pytest.approx(theirs(x, y)[0], abs=1e-12)

    assert num_defined > 200


def test_weighted_tau_equals_scipy_on_untied_data():
    rng = np.random.default_rng(0)
    for size in (2, 3, 5, 8, 64):
        x, y = rng.normal(size=(2, 20, size))
        agreement = weighted_tau(exact(x), exact(y), np.ones(x.shape, dtype=bool))
        expected = np.empty(20)
        for i in range(20):
            result: Any = scipy.stats.weightedtau(x[i], y[i])  # SciPy's stubs know no fields
            expected[i] = result.statistic
        np.testing.assert_allclose(agreement.values, expected, atol=1e-12)


def test_weighted_tau_minds_the_top_more_than_the_bottom():
    same = [4, 3, 2, 1]

    assert (
        compare(weighted_tau, same, [3, 4, 2, 1])[0] < compare(weighted_tau, same, [4, 3, 1, 2])[0]
    )
    assert compare(kendall_tau, same, [3, 4, 2, 1]) == compare(kendall_tau, same, [4, 3, 1, 2])


def test_noise_makes_ties_and_the_gap_equal_to_it_is_one():
    """0, 1, 3 with noise 1: the pair (0, 1) is tied, (1, 3) and (0, 3) are not.

    Against 0, 1, 3 without noise: 2 concordant pairs, 2 strict in the first, 3 in the second.
    """
    value, _ = compare(kendall_tau, [0, 1, 3], [0, 1, 3], noise=1.0)

    assert value == pytest.approx(2 / np.sqrt(2 * 3), abs=1e-12)
    assert compare(kendall_tau, [0, 1], [0, 1], noise=0.999) == (1.0, Definedness.DEFINED)


def test_the_larger_noise_of_two_members_decides():
    values = np.array([[0.0, 1.0, 2.0]])
    noisy = Reward(values, np.array([[1.5, 0.0, 0.0]]))
    everyone = np.ones((1, 3), dtype=bool)

    # (0, 1) lies within 1.5, (0, 2) and (1, 2) do not.
    expected = 2 / np.sqrt(2 * 3)
    assert kendall_tau(noisy, exact(values), everyone).values[0] == pytest.approx(expected)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_what_cannot_be_ranked_has_a_reason_and_no_value(statistic):
    nan = np.nan
    first = exact(np.array([[1.0, 2], [1, 2], [1, 1], [1, 2], [1, 1]]))
    second = exact(np.array([[1.0, 2], [nan, 2], [1, 2], [1, 1], [1, 1]]))
    counted = np.ones((5, 2), dtype=bool)
    counted[0, 1] = False
    agreement = statistic(first, second, counted)

    assert np.isnan(agreement.values).all()
    assert [Definedness(code).name for code in agreement.definedness] == [
        "SINGLE",
        "UNSCORED",
        "FIRST_TIED",
        "SECOND_TIED",
        "FIRST_TIED",
    ]


@pytest.mark.parametrize("statistic", STATISTICS)
def test_identical_rankings_agree_fully_with_or_without_ties(statistic):
    assert compare(statistic, [3, 3, 1, 2, 1], [3, 3, 1, 2, 1])[0] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("statistic", [kendall_tau, spearman, weighted_tau])
def test_reversed_rankings_disagree_fully(statistic):
    assert compare(statistic, [1, 2, 3, 4], [4, 3, 2, 1])[0] == pytest.approx(-1.0, abs=1e-12)


def test_list_position_is_no_evidence():
    """Ordinal ranks of equal scores are 1..n in both lists: the reference finds tau = 1 here."""
    ordinal = [scipy.stats.rankdata([0.5] * 4, method="ordinal") for _ in range(2)]
    assert scipy.stats.kendalltau(*ordinal)[0] == pytest.approx(1.0)

    assert compare(kendall_tau, [0.5] * 4, [0.5] * 4)[1] is Definedness.FIRST_TIED


def reference_top_order(first, second):
    """Raibows/CREAM cal_consistency.py at de1d04b, the branch of ``toporder``."""
    rank1 = scipy.stats.rankdata(first, method="ordinal")
    rank2 = scipy.stats.rankdata(second, method="ordinal")
    return 1.0 if rank1[0] == rank2[0] and rank1[-1] == rank2[-1] else 0.0


def test_top_order_sees_the_best_and_the_worst_where_the_reference_sees_list_ends():
    """Best is member 1 and worst member 2 in both, but the first response ranks 2nd and 3rd."""
    same_ends = ([2, 4, 1, 3], [3, 4, 1, 2])
    other_ends = ([2, 4, 1, 3], [2, 1, 4, 3])

    assert reference_top_order(*same_ends) == 0.0
    assert compare(top_order, *same_ends)[0] == 1.0
    assert reference_top_order(*other_ends) == 1.0
    assert compare(top_order, *other_ends)[0] == 0.0


def test_top_order_gives_half_for_one_end_and_the_overlap_for_ties():
    """Best sets {0, 1} and {0}: overlap 1/2; worst {2} in both: 1. Mean 3/4."""
    assert compare(top_order, [3, 2, 1], [3, 1, 2])[0] == 0.5
    assert compare(top_order, [3, 3, 1], [3, 2, 1])[0] == 0.75


def test_unrelated_rankings_score_one_in_n_in_top_order_and_zero_in_tau():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20000, 5))
    everyone = np.ones(x.shape, dtype=bool)

    # Five standard errors: 0.32 / sqrt(20000) and 0.41 / sqrt(20000).
    assert top_order(exact(x), exact(y), everyone).values.mean() == pytest.approx(0.2, abs=0.012)
    assert kendall_tau(exact(x), exact(y), everyone).values.mean() == pytest.approx(0, abs=0.015)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_agreement_is_symmetric_and_ignores_the_order_of_completions_and_prompts(statistic):
    rng = np.random.default_rng(7)
    table = random_table(rng, 300, 10)
    order = rng.permutation(300)
    moved, _ = table.reorder(order, rng)
    noise = 1.0
    before = statistic(
        table.reward(table.first, noise), table.reward(table.second), table.groups.distinct
    )
    after = statistic(
        moved.reward(moved.first, noise), moved.reward(moved.second), moved.groups.distinct
    )
    swapped = statistic(
        table.reward(table.second), table.reward(table.first, noise), table.groups.distinct
    )

    np.testing.assert_allclose(after.values, before.values[order], atol=1e-12)
    np.testing.assert_array_equal(after.definedness, before.definedness[order])
    np.testing.assert_allclose(swapped.values, before.values, atol=1e-12)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_duplicates_are_no_evidence(statistic):
    """Doubling completions leaves every agreement as it was once they are collapsed."""
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(2, 5))
    twice = np.repeat([True, False], 5)[None]
    single = compare(statistic, x, y)[0]
    doubled = statistic(exact(np.tile(x, 2)[None]), exact(np.tile(y, 2)[None]), twice).values[0]

    assert doubled == pytest.approx(single, abs=1e-12)


def test_by_position_the_later_of_equal_values_is_better_and_a_gap_takes_all_ranks():
    """Values 2, 1, 2: places 1, 0, 2. A group with an unscored completion that counts has none."""
    values = np.array([[2.0, 1.0, 2.0], [1.0, np.nan, 3.0], [1.0, np.nan, 3.0]])
    counted = np.array([[True] * 3, [True] * 3, [True, False, True]])

    ranks = by_position(exact(values), counted)

    np.testing.assert_array_equal(ranks.values, [[1.0, 0.0, 2.0], [np.nan] * 3, [0.0, np.nan, 1.0]])
