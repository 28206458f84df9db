from itertools import pairwise

import numpy as np
import pytest

from cream.algorithms.diagnostics import (
    Sampled,
    completion_profile,
    consistency_validity,
    course_warnings,
    distinct_ngrams,
    drift_warnings,
    kl_from_seed,
    margin_fixed_point,
    pair_accuracy,
    witness_accuracy,
)
from cream.algorithms.groups import group_rows
from cream.algorithms.pair_consistency import WitnessVerdict
from cream.algorithms.statistics import Absent, wilson_interval
from cream.errors import DataError

CHOSEN = np.array([1.0, 1, 0, 1, 0, np.nan])
REJECTED = np.array([0.0, 0, 1, 1, 0, 0])


def test_accuracy_is_taken_over_decidable_pairs_and_all_pairs_are_counted():
    accuracy = pair_accuracy(CHOSEN, REJECTED)

    assert accuracy.share == wilson_interval(2, 3)
    assert accuracy.pairs.parts == {
        "right": 2,
        "wrong": 1,
        "both_right": 1,
        "both_wrong": 1,
        "unverified": 1,
    }


def test_accuracy_without_decidable_pairs_is_absent_and_grades_are_refused():
    assert pair_accuracy(np.ones(2), np.ones(2)).share is Absent.NO_ITEMS
    with pytest.raises(DataError, match="not a grade"):
        pair_accuracy(np.array([0.5]), np.array([0.0]))


def test_witness_accuracy_splits_pairs_by_verdict():
    verdicts = np.array([0, 1, 0, 2, 3, 3], dtype=np.int8)
    split = witness_accuracy(verdicts, CHOSEN, REJECTED)

    assert split[WitnessVerdict.AGREES].share == wilson_interval(1, 2)
    assert split[WitnessVerdict.DISAGREES].share == wilson_interval(1, 1)
    assert split[WitnessVerdict.TIED].pairs.parts["both_right"] == 1
    assert sum(part.pairs.total for part in split.values()) == len(verdicts)


def test_validity_looks_at_decidable_pairs_only():
    """Decidable: C 0.9 and 0.4 right, 0.6 wrong: AUROC 1/2. The NaN is not decidable."""
    c = np.array([0.9, 0.4, 0.6, 0.0, 1.0, np.nan])
    validity = consistency_validity(c, CHOSEN, REJECTED, num_bins=2)

    assert validity.auroc == 0.5
    assert validity.num_decidable == 3
    assert [b.observed for b in validity.reliability] == [
        wilson_interval(1, 1),
        wilson_interval(1, 2),
    ]


def test_validity_of_pairs_that_are_all_right_is_absent():
    validity = consistency_validity(np.full(2, 0.7), np.ones(2), np.zeros(2))

    assert validity.auroc is Absent.ONE_CLASS


def test_profile_counts_duplicates_of_later_copies_only():
    groups = group_rows(np.array([0, 3, 4]), np.array([1, 1, 1, 1]))
    num_tokens = np.array([[2, 2, 2], [6, 0, 0]])
    profile = completion_profile(groups, num_tokens, np.array([[False] * 3, [True] * 3]))

    assert profile.duplicates == wilson_interval(2, 4)
    assert profile.truncated == wilson_interval(1, 4)
    assert profile.mean_tokens == 3.0


def ngrams_by_hand(completions, n):
    grams = [tuple(c[i : i + n]) for c in completions for i in range(len(c) - n + 1)]
    return len(set(grams)) / len(grams) if grams else Absent.NO_ITEMS


@pytest.mark.parametrize("n", [1, 2, 3, 5, 9])
@pytest.mark.parametrize("largest_id", [3, 2**30])
def test_distinct_ngrams_equal_a_set_of_tuples(n, largest_id):
    """Ids near 2**30 make three of them overflow int64 unless they are renumbered."""
    rng = np.random.default_rng(n)
    ids = rng.integers(largest_id - 3, largest_id, 3000)
    lengths = rng.multinomial(3000, rng.dirichlet(np.full(700, 0.5)))  # many empty or short
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    completions = [ids[a:b].tolist() for a, b in pairwise(offsets)]

    assert distinct_ngrams(ids, offsets, n=n) == ngrams_by_hand(completions, n)


def test_no_ngram_reaches_over_two_completions():
    ids, offsets = np.array([1, 2, 1, 2]), np.array([0, 1, 2, 2, 4])

    assert distinct_ngrams(ids, offsets, n=2) == 1.0
    assert distinct_ngrams(ids, offsets, n=3) is Absent.NO_ITEMS
    assert distinct_ngrams(np.empty(0, np.int64), np.array([0]), n=1) is Absent.NO_ITEMS


def test_kl_follows_the_hand_derivation_and_leaves_unscored_out():
    """Ratios 2 and 4 over 2 and 4 tokens: 1 nat a token, 3 a completion, std 1.41 / root 2 = 1."""
    estimate = kl_from_seed(
        np.array([-1.0, -2, -3]), np.array([-3.0, -6, np.nan]), np.array([2, 4, 100])
    )

    assert not isinstance(estimate, Absent)
    assert estimate.per_token == 1.0
    assert estimate.per_completion == 3.0
    assert estimate.standard_error == pytest.approx(1.0)
    assert estimate.num_completions == 2
    assert kl_from_seed(np.array([np.nan]), np.zeros(1), np.array([3])) is Absent.NO_ITEMS


def test_kl_estimate_is_unbiased_on_the_policys_own_samples():
    """Policy (0.8, 0.2), seed (0.5, 0.5), one token: KL = 0.8 ln 1.6 + 0.2 ln 0.4 = 0.1927."""
    policy, seed = np.log([0.8, 0.2]), np.log([0.5, 0.5])
    samples = (np.random.default_rng(0).random(40_000) > 0.8).astype(int)
    estimate = kl_from_seed(policy[samples], seed[samples], np.ones(40_000, dtype=np.int64))

    assert not isinstance(estimate, Absent)
    assert not isinstance(estimate.standard_error, Absent)
    assert estimate.per_token == pytest.approx(0.19274, abs=5 * estimate.standard_error)
    assert estimate.standard_error < 0.004


def test_margin_fixed_point_is_the_logit_of_the_design_notes():
    expected = [-np.inf, 0, 0.9946, 2.4423, np.inf]

    np.testing.assert_allclose(
        margin_fixed_point(np.array([0, 0.5, 0.73, 0.92, 1.0])), expected, atol=1e-4
    )


def test_a_loss_spike_is_named_with_its_step():
    steady = [{"loss": 1.0 + 0.01 * (-1) ** i} for i in range(30)]
    spiked = [*steady, {"loss": 3.0}, *steady]

    assert course_warnings(steady) == {}
    found = course_warnings(spiked)
    assert list(found) == ["loss_spike"]
    assert "rose to 3 at step 31, from 1" in found["loss_spike"]
    assert course_warnings([{"loss": 1.0}] * 9 + [{"loss": 9.0}]) == {}  # too few steps to judge
    assert course_warnings([{"loss": 1.0}] * 30 + [{"loss": 1.4}]) == {}  # below half a nat
    assert course_warnings([{"loss": None}] * 40) == {}


def test_a_loss_that_is_noisy_spikes_later():
    """Median 1, median deviation 0.2: 8 deviations of 1.4826 x 0.2 are 2.37 nats."""
    noisy = [{"loss": 1.0 + d} for d in (0.2, -0.2, 0.2, -0.2, 0.0) * 4]

    assert course_warnings([*noisy, {"loss": 3.3}]) == {}
    assert list(course_warnings([*noisy, {"loss": 3.4}])) == ["loss_spike"]


def test_a_margin_explodes_where_the_sigmoid_of_float32_is_flat():
    assert np.float32(1) / (1 + np.exp(np.float32(-17))) == np.float32(1)
    assert course_warnings([{"loss": 0.0, "rewards/margins": 16.9}]) == {}
    found = course_warnings([{"loss": 0.0, "rewards/margins": -17.5}])
    assert list(found) == ["margin_explosion"]


def test_drift_is_against_the_first_iteration():
    first = Sampled(distinct_share=0.8, mean_tokens=20.0, truncated_share=0.1)

    assert drift_warnings(first, first) == {}
    assert list(drift_warnings(first, Sampled(0.39, 20.0, 0.1))) == ["collapse_of_diversity"]
    assert drift_warnings(first, Sampled(0.41, 39.0, 0.39)) == {}
    assert list(drift_warnings(first, Sampled(0.8, 41.0, 0.1))) == ["runaway_length"]
    assert list(drift_warnings(first, Sampled(0.8, 20.0, 0.41))) == ["runaway_length"]
