import numpy as np
import pytest
import scipy.stats

from cream.algorithms.statistics import (
    Absent,
    Interval,
    auroc,
    bootstrap_auroc,
    bootstrap_mean,
    mean_at_k,
    paired_difference,
    pass_at_k,
    reliability_table,
    share_of,
    wilson_interval,
)
from cream.errors import DataError


@pytest.mark.parametrize(("successes", "trials"), [(0, 1), (0, 7), (7, 7), (3, 10), (118, 147)])
@pytest.mark.parametrize("level", [0.95, 0.8])
def test_wilson_interval_equals_scipy(successes, trials, level):
    ours = wilson_interval(successes, trials, level=level)
    theirs = scipy.stats.binomtest(successes, trials).proportion_ci(level, method="wilson")

    assert isinstance(ours, Interval)
    assert ours.low == pytest.approx(theirs.low, abs=1e-12)
    assert ours.high == pytest.approx(theirs.high, abs=1e-12)
    assert ours.low <= ours.estimate <= ours.high


def test_a_share_of_nothing_is_absent_and_impossible_counts_are_refused():
    assert wilson_interval(0, 0) is Absent.NO_ITEMS
    with pytest.raises(DataError, match="2/1"):
        wilson_interval(2, 1)


@pytest.mark.parametrize("decimals", [0, 9], ids=["drawn as counts", "drawn as items"])
def test_bootstrap_interval_has_the_width_of_the_normal_one(decimals):
    """1.96 standard errors on each side; 4000 resamples leave about 3 % on the width."""
    values = np.round(np.random.default_rng(0).normal(3, 2, 400), decimals)
    interval = bootstrap_mean(values, np.random.default_rng(1), num_resamples=4000)
    standard_error = values.std() / 20

    assert isinstance(interval, Interval)
    assert interval.estimate == values.mean()
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * standard_error, rel=0.06)
    assert (interval.high + interval.low) / 2 == pytest.approx(values.mean(), abs=0.01)


def test_bootstrap_covers_the_truth_about_as_often_as_it_says():
    """95 % of 400 intervals, binomial standard error 1.1 %; the method is a bit short."""
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        interval = bootstrap_mean(rng.normal(size=60), rng, num_resamples=400)
        assert isinstance(interval, Interval)
        covered += interval.low <= 0 <= interval.high

    assert 0.90 <= covered / 400 <= 0.985


def test_bootstrap_depends_on_the_generator_only():
    values = np.random.default_rng(0).normal(size=50)
    runs = [bootstrap_mean(values, np.random.default_rng(seed)) for seed in (1, 1, 2)]

    assert runs[0] == runs[1] != runs[2]


def test_bootstrap_refuses_nan_and_has_no_mean_of_nothing():
    rng = np.random.default_rng(0)

    assert bootstrap_mean(np.empty(0), rng) is Absent.NO_ITEMS
    with pytest.raises(DataError, match="1 of 2 values are NaN"):
        bootstrap_mean(np.array([1.0, np.nan]), rng)


def test_pairing_removes_the_difficulty_of_items_from_the_interval():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 10, 200)
    treatment = difficulty + 0.5 + rng.normal(0, 0.1, 200)
    paired = paired_difference(treatment, difficulty, rng)
    alone = bootstrap_mean(treatment, rng)

    assert isinstance(paired, Interval)
    assert isinstance(alone, Interval)
    assert 0.4 < paired.low < 0.5 < paired.high < 0.6
    assert alone.high - alone.low > 2


def test_auroc_equals_mann_whitney_on_tied_scores_and_counts_by_hand():
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 6, 300).astype(float), rng.random(300) < 0.3
    u = scipy.stats.mannwhitneyu(scores[positive], scores[~positive]).statistic

    assert auroc(scores, positive) == pytest.approx(u / (positive.sum() * (~positive).sum()))
    # Positives 2, 1 against negatives 1, 0: win, win, tie, win.
    assert auroc(np.array([2.0, 1, 1, 0]), np.array([True, True, False, False])) == 3.5 / 4


def test_auroc_says_why_it_does_not_exist():
    assert auroc(np.empty(0), np.empty(0, dtype=bool)) is Absent.NO_ITEMS
    assert auroc(np.ones(2), np.ones(2, dtype=bool)) is Absent.ONE_CLASS


@pytest.mark.parametrize("clustered", [False, True])
def test_the_interval_of_an_auroc_is_that_of_resamples_drawn_one_by_one(clustered):
    """The same multinomial counts, each item repeated as often, and `auroc` of that."""
    rng = np.random.default_rng(0)
    scores, positive = rng.integers(0, 5, 40).astype(float), rng.random(40) < 0.4
    clusters = rng.integers(0, 9, 40) * 7 if clustered else np.arange(40)
    found = bootstrap_auroc(
        scores, positive, np.random.default_rng(3), clusters=clusters, num_resamples=200
    )

    names, cluster = np.unique(clusters, return_inverse=True)
    times = np.random.default_rng(3).multinomial(len(names), [1 / len(names)] * len(names), 200)
    resampled = [auroc(*(np.repeat(v, t[cluster]) for v in (scores, positive))) for t in times]
    known = [value for value in resampled if not isinstance(value, Absent)]
    assert isinstance(found, Interval)
    assert (found.estimate, found.num_items) == (auroc(scores, positive), 40)
    np.testing.assert_allclose((found.low, found.high), np.quantile(known, [0.025, 0.975]))


def test_the_interval_of_an_auroc_covers_the_truth_about_as_often_as_it_says():
    """Normal scores one standard deviation apart: AUROC is Phi(1 / sqrt(2)) = 0.7602."""
    rng = np.random.default_rng(0)
    truth, covered = scipy.stats.norm.cdf(1 / 2**0.5), 0
    positive = np.arange(80) < 40
    for _ in range(200):
        found = bootstrap_auroc(rng.normal(size=80) + positive, positive, rng, num_resamples=200)
        assert isinstance(found, Interval)
        covered += found.low <= truth <= found.high

    assert 0.89 <= covered / 200 <= 0.985


def test_items_of_one_cluster_are_no_evidence_of_their_own():
    """Ten copies of each item: ten times the items, the interval of the clusters."""
    rng = np.random.default_rng(0)
    scores, positive = rng.normal(size=60), rng.random(60) < 0.5
    once = bootstrap_auroc(scores, positive, np.random.default_rng(1))
    copies = [np.repeat(v, 10) for v in (scores, positive, np.arange(60))]
    tenfold = bootstrap_auroc(*copies[:2], np.random.default_rng(1), clusters=copies[2])  # pyright: ignore

    assert isinstance(once, Interval)
    assert isinstance(tenfold, Interval)
    assert (tenfold.low, tenfold.high) == pytest.approx((once.low, once.high))
    assert bootstrap_auroc(scores, positive | True, rng) is Absent.ONE_CLASS


def test_reliability_bins_hold_every_item_once_with_the_end_point_in_the_last():
    predicted = np.array([0.0, 0.1, 0.5, 0.9, 1.0])
    table = reliability_table(predicted, np.array([False, True, True, True, False]), num_bins=2)

    assert [(b.low, b.high, b.num_items) for b in table] == [(0.0, 0.5, 2), (0.5, 1.0, 3)]
    assert table[0].mean_predicted == pytest.approx(0.05)
    assert table[1].mean_predicted == pytest.approx(0.8)
    assert table[0].observed == wilson_interval(1, 2)
    assert table[1].observed == wilson_interval(2, 3)


def test_empty_reliability_bin_has_a_reason_and_bad_predictions_are_refused():
    table = reliability_table(np.array([0.9]), np.array([True]), num_bins=2)
    assert table[0].mean_predicted is Absent.NO_ITEMS
    assert table[0].observed is Absent.NO_ITEMS
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        reliability_table(np.array([1.1]), np.array([True]))


def test_pass_at_k_equals_the_count_of_subsets():
    """n = 4, c = 2: of 6 pairs only one has no right completion, so pass@2 = 5/6."""
    result = pass_at_k(np.array([2, 0, 4, 3]), np.array([4, 4, 4, 4]), k=2)

    np.testing.assert_allclose(result, [5 / 6, 0, 1, 1], atol=1e-15)
    np.testing.assert_allclose(pass_at_k(np.array([3]), np.array([8]), k=1), 3 / 8, atol=1e-15)


def test_mean_at_k_is_the_share_of_right_completions():
    np.testing.assert_array_equal(mean_at_k(np.array([1, 4]), np.array([4, 4])), [0.25, 1.0])


@pytest.mark.parametrize(("correct", "total", "k"), [(1, 3, 4), (4, 3, 1), (-1, 3, 1), (1, 3, 0)])
def test_impossible_counts_are_refused(correct, total, k):
    with pytest.raises(DataError):
        pass_at_k(np.array([correct]), np.array([total]), k=k)


def test_a_share_counts_the_decimal_that_was_written():
    """29 of 100, where the product of floats is 28.999...; 7 of 100 up, where it is 7.000...1."""
    assert int(0.29 * 100) == 28
    assert share_of(0.29, 100) == 29
    assert share_of(0.07, 100, round_up=True) == 7
    assert (share_of(0.333, 10), share_of(0.333, 10, round_up=True)) == (3, 4)
    assert (share_of(0.0, 7), share_of(1.0, 7), share_of(1e-7, 10**7)) == (0, 7, 1)


def test_every_percentage_of_every_number_is_exact():
    for total in range(1, 201):
        for percent in range(101):
            share = percent / 100
            assert share_of(share, total) == percent * total // 100
            assert share_of(share, total, round_up=True) == -(-percent * total // 100)
