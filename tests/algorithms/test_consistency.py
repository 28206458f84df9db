import numpy as np
import pytest

from cream.algorithms.consistency import (
    BelowHalf,
    apply_below_half,
    consistency_rates,
    low_confidence,
    null_variance,
    sample_level,
    set_level,
    shrunken_level,
    summarise,
)
from cream.algorithms.ranking import Definedness, RankAgreement, kendall_tau
from cream.algorithms.rewards import exact
from cream.algorithms.statistics import Absent, Interval
from cream.errors import DataError


def agreement(values, members=5):
    values = np.array(values, dtype=float)
    reason = np.where(np.isnan(values), Definedness.SECOND_TIED, Definedness.DEFINED)
    return RankAgreement(values, reason.astype(np.int8), np.full(len(values), members))


def test_rate_is_the_probability_of_the_same_order():
    """Orders 1234 and 1243 share 5 of 6 pairs: tau = 2/3, C = 5/6."""
    tau = kendall_tau(
        exact(np.array([[1.0, 2, 3, 4]])),
        exact(np.array([[1.0, 2, 4, 3]])),
        np.ones((1, 4), dtype=bool),
    )

    assert consistency_rates(tau).values[0] == pytest.approx(5 / 6, abs=1e-12)


def test_set_level_is_the_mean_over_defined_prompts_and_fills_undefined_ones():
    rates = consistency_rates(agreement([1.0, np.nan, -0.6]))

    assert set_level(rates) == pytest.approx(0.6)
    np.testing.assert_allclose(sample_level(rates), [1.0, 0.6, 0.2], rtol=1e-15)


@pytest.mark.parametrize("level", [set_level, sample_level])
def test_no_defined_prompt_is_an_error_that_names_the_reasons(level):
    with pytest.raises(DataError, match="'second_tied': 2"):
        level(agreement([np.nan, np.nan]))


def test_shrinking_follows_the_hand_derivation():
    """C_j = 1, 1/2, 0: mean 1/2, variance 1/4. v = 1/8, so s^2 = 1/8 and the weight is 1/2."""
    rates = agreement([1.0, 0.5, 0.0, np.nan])
    shrunken = shrunken_level(rates, np.full(4, 1 / 8))

    np.testing.assert_allclose(shrunken, [0.75, 0.5, 0.25, 0.5], rtol=1e-12)


def test_less_noisy_prompts_are_shrunken_less():
    shrunken = shrunken_level(agreement([1.0, 1.0, 0.0, 0.0]), np.array([0.01, 0.2, 0.01, 0.2]))

    assert 0.5 < shrunken[1] < shrunken[0] < 1.0


def test_spread_that_noise_explains_is_shrunken_away_entirely():
    """Unrelated rankings: the variance of C_j is `null_variance`, so s^2 is 0 up to its error."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 5000, 5))
    rates = consistency_rates(kendall_tau(exact(x), exact(y), np.ones(x.shape, dtype=bool)))
    shrunken = shrunken_level(rates, null_variance(rates.members))

    assert rates.values.var() == pytest.approx(null_variance(np.array([5]))[0], rel=0.05)
    assert shrunken.std() < 0.1 * rates.values.std()


def test_null_variance_equals_enumeration_of_all_orders():
    """n = 3: tau of the 6 orders is 1, 1/3, 1/3, -1/3, -1/3, -1; variance 11/27, of C 11/108."""
    np.testing.assert_allclose(null_variance(np.array([3, 1])), [11 / 108, np.nan], rtol=1e-12)


def test_one_defined_prompt_is_its_own_set_level():
    np.testing.assert_allclose(shrunken_level(agreement([0.8]), np.array([0.1])), [0.8])


def test_policies_below_half_act_on_the_final_consistency():
    c = np.array([0.2, 0.5, 0.9])
    floor, allow, drop = (apply_below_half(c, policy) for policy in BelowHalf)

    np.testing.assert_array_equal(floor.values, [0.5, 0.5, 0.9])
    np.testing.assert_array_equal(allow.values, c)
    np.testing.assert_array_equal(drop.kept, [False, True, True])
    assert floor.kept.all()
    assert allow.kept.all()
    assert floor.num_below_half == allow.num_below_half == drop.num_below_half == 1


@pytest.mark.parametrize("bad", [np.nan, 1.01, -0.01])
def test_consistency_outside_its_range_never_reaches_the_loss(bad):
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        apply_below_half(np.array([bad]), BelowHalf.FLOOR)


def test_unrelated_rankings_are_reported_at_one_half_not_at_the_mean_of_floored_rates():
    """The 120 orders of 5 have 0..10 inversions 1 4 9 15 20 22 20 15 9 4 1 times; C = 1 - k/10.

    So 49/120 lie below 1/2 and the mean of max(C, 1/2) is 1/2 + 9.8/120 = 0.582.
    """
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4000, 5))
    rates = consistency_rates(kendall_tau(exact(x), exact(y), np.ones(x.shape, dtype=bool)))
    summary = summarise(rates, np.random.default_rng(1))

    assert isinstance(summary.rate, Interval)
    assert summary.rate.low < 0.5 < summary.rate.high
    assert summary.tau_std == pytest.approx(0.41, abs=0.01)
    assert np.maximum(rates.values, 0.5).mean() == pytest.approx(0.582, abs=0.01)
    assert isinstance(summary.share_below_half, Interval)
    assert summary.share_below_half.estimate == pytest.approx(49 / 120, abs=0.04)


def test_summary_counts_every_prompt_once_and_reports_tau():
    summary = summarise(consistency_rates(agreement([1.0, np.nan, 0.5])), np.random.default_rng(0))

    assert summary.prompts.total == 3
    assert summary.prompts.parts["defined"] == 2
    assert summary.prompts.parts["second_tied"] == 1
    assert summary.tau_mean == pytest.approx(0.75)
    assert summary.tau_std == pytest.approx(np.std([1.0, 0.5], ddof=1))


def test_summary_of_nothing_says_so():
    summary = summarise(agreement([np.nan]), np.random.default_rng(0))

    assert summary.rate is summary.rate_std is summary.share_below_half is Absent.NO_ITEMS
    assert summary.tau_mean is summary.tau_std is Absent.NO_ITEMS


def test_low_confidence_smooths_the_smallest_gaps_and_what_is_tied_with_them():
    """Half of five, rounded down, is two: gaps 1 and 2, and the other 2."""
    gap = np.array([3.0, 1.0, 2.0, 2.0, 4.0])

    found = low_confidence(gap, 0.5, label_smoothing=0.25)

    np.testing.assert_array_equal(found, [1.0, 0.75, 0.75, 0.75, 1.0])
    np.testing.assert_array_equal(low_confidence(gap, 0.1, label_smoothing=0.25), np.ones(5))


def test_low_confidence_takes_the_share_as_written():
    gap = np.arange(1.0, 101.0)

    assert (low_confidence(gap, 0.29, label_smoothing=0.1) < 1).sum() == 29
