import numpy as np
import pytest

from cream.algorithms.pair_consistency import (
    Calibration,
    WitnessVerdict,
    best_worst_agreement,
    calibrated_consistency,
    normal_correlation,
    pair_agreement_rate,
    witness_verdicts,
)
from cream.algorithms.rewards import Reward
from cream.algorithms.statistics import wilson_interval
from cream.errors import DataError


def agreement(tau, members):
    return best_worst_agreement(np.array([tau]), np.array([members]))[0]


def test_raters_at_consistency_073_agree_on_best_and_worst_of_five_with_probability_090():
    assert agreement(2 * 0.73 - 1, 5) == pytest.approx(0.90, abs=0.01)


@pytest.mark.parametrize(("tau", "members"), [(0.46, 5), (-0.3, 8), (0.8, 3), (0.2, 32)])
def test_formula_equals_simulated_raters(tau, members):
    """200,000 groups: five standard errors are at most 0.0056."""
    rng = np.random.default_rng(0)
    rho = float(normal_correlation(np.array([tau]))[0])
    first = rng.normal(size=(200_000, members))
    second = rho * first + np.sqrt(1 - rho**2) * rng.normal(size=first.shape)
    prompts = np.arange(len(first))
    gap = second[prompts, first.argmax(1)] - second[prompts, first.argmin(1)]

    assert agreement(tau, members) == pytest.approx((gap > 0).mean(), abs=0.0056)


def test_two_members_agree_with_probability_one_plus_tau_over_two():
    tau = np.linspace(-0.99, 0.99, 199)
    members = np.full(199, 2)

    np.testing.assert_allclose(best_worst_agreement(tau, members), (1 + tau) / 2, atol=1e-5)


@pytest.mark.parametrize("members", [2, 5, 8, 64])
def test_agreement_rises_from_zero_over_one_half_to_one(members):
    tau = np.linspace(-1, 1, 101)
    result = best_worst_agreement(tau, np.full(101, members))

    np.testing.assert_allclose(result[[0, 50, 100]], [0, 0.5, 1], atol=1e-6)
    np.testing.assert_allclose(result + result[::-1], 1, atol=1e-9)
    assert (np.diff(result) >= -1e-9).all()


def test_larger_groups_have_an_easier_trained_pair():
    result = best_worst_agreement(np.full(3, 0.4), np.array([2, 8, 64]))

    assert 0.7 - 1e-6 < result[0] < result[1] < result[2]


@pytest.mark.parametrize(("tau", "members"), [(np.nan, 5), (1.1, 5), (0.5, 1)])
def test_impossible_arguments_are_refused(tau, members):
    with pytest.raises(DataError, match="tau in"):
        agreement(tau, members)


def test_verdicts_mind_the_noise_and_missing_values():
    witness = Reward(np.array([[1.0, 0.0, 0.5, np.nan]]), np.array([[0.1, 0.1, 0.6, 0.0]]))
    zero = np.zeros(4, dtype=np.int64)
    verdicts = witness_verdicts(witness, zero, np.array([0, 1, 0, 0]), np.array([1, 0, 2, 3]))

    assert [WitnessVerdict(v).name for v in verdicts] == ["AGREES", "DISAGREES", "TIED", "UNSCORED"]
    assert pair_agreement_rate(verdicts) == wilson_interval(1, 2)


def test_calibrated_consistency_is_the_accuracy_of_pairs_of_the_same_verdict():
    """Counts of the design study: 108/120 right where M1' agrees, 10/27 where not; prior 1, 1."""
    calibration = Calibration(108, 120, 10, 27, source="decidable pairs, iteration 1")
    c = calibrated_consistency(np.arange(4, dtype=np.int8), calibration)

    np.testing.assert_allclose(c, [109 / 122, 11 / 29, 119 / 149, 119 / 149], rtol=1e-15)


def test_calibration_without_pairs_trusts_nothing_and_impossible_counts_are_refused():
    nothing = Calibration(0, 0, 0, 0, source="none")
    np.testing.assert_array_equal(calibrated_consistency(np.array([0, 1], np.int8), nothing), 0.5)
    with pytest.raises(DataError, match="from held-out pairs"):
        Calibration(2, 1, 0, 0, source="held-out pairs")
