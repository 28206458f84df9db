import numpy as np
import pytest

from cream.algorithms.advantages import (
    Spread,
    collapse,
    group_deviation,
    group_mean,
    largest_vote,
    leave_one_out,
    majority,
    varies,
)


def padded(*groups):
    """Rewards as padded groups with the mask of the samples that count."""
    width = max(map(len, groups))
    values = np.full((len(groups), width), np.nan)
    for row, group in enumerate(groups):
        values[row, : len(group)] = group
    return values, ~np.isnan(values)


def test_leave_one_out_by_hand():
    """R = (1, -1, -1, 1): the others of the first sum to -1, so b = -1/3 and A = 4/3.
    R = (1, -1, -1, -1): A = (2, -2/3, -2/3, -2/3)."""
    rewards, counted = padded([1, -1, -1, 1], [1, -1, -1, -1])
    advantage = rewards - leave_one_out(rewards, counted)
    np.testing.assert_allclose(advantage[0], [4 / 3, -4 / 3, -4 / 3, 4 / 3])
    np.testing.assert_allclose(advantage[1], [2, -2 / 3, -2 / 3, -2 / 3])


def test_a_baseline_that_holds_its_own_sample_is_another_one():
    """Leave-one-out is M / (M - 1) times the advantage over the mean, and not equal to it."""
    rewards, counted = padded([0.3, 2.0, -1.5], [1, 0], [5, 5, 5])
    loo = rewards - leave_one_out(rewards, counted)
    own = rewards - group_mean(rewards, counted)
    size = counted.sum(1, keepdims=True)
    np.testing.assert_allclose(loo, own * size / (size - 1))
    assert np.abs(loo[0] - own[0]).max() > 0.8


def test_advantages_of_a_prompt_sum_to_zero_and_ignore_a_constant():
    rewards, counted = padded([0.3, 2.0, -1.5], [1, 0])
    for baseline in (leave_one_out, group_mean):
        advantage = rewards - baseline(rewards, counted)
        np.testing.assert_allclose(np.nansum(advantage, 1), 0, atol=1e-12)
        shifted = rewards + 7 - baseline(rewards + 7, counted)
        np.testing.assert_allclose(shifted, advantage)
        negated = -rewards - baseline(-rewards, counted)
        np.testing.assert_allclose(negated, -advantage)


def test_the_leave_one_out_baseline_does_not_move_with_its_own_sample():
    """That is what keeps the gradient unbiased; the mean moves by 1 / M."""
    rewards, counted = padded([0.3, 2.0, -1.5])
    changed = rewards.copy()
    changed[0, 1] = 50
    before, after = leave_one_out(rewards, counted), leave_one_out(changed, counted)
    assert after[0, 1] == pytest.approx(before[0, 1])
    assert after[0, 0] == pytest.approx(before[0, 0] + 24)


def test_the_expected_gradient_of_a_bandit_is_exact_under_leave_one_out():
    """Two arms, logit z, reward 1 for the first: dE[R]/dz = p (1 - p). Summed over all draws of two
    samples, leave-one-out gives exactly that; the mean as a baseline gives half of it (M = 2)."""
    p = 0.3
    score = np.array([1 - p, -p])  # d log p(arm) / dz
    exact = p * (1 - p)
    found = {leave_one_out: 0.0, group_mean: 0.0}
    for i in range(2):
        for j in range(2):
            weight = np.array([p, 1 - p])[[i, j]].prod()
            rewards, counted = padded([1.0 - i, 1.0 - j])
            for baseline in found:
                advantage = (rewards - baseline(rewards, counted))[0]
                found[baseline] += weight * (advantage * score[[i, j]]).mean()
    assert found[leave_one_out] == pytest.approx(exact)
    assert found[group_mean] == pytest.approx(exact / 2)


def test_samples_that_do_not_count_are_in_no_baseline():
    rewards, _ = padded([1, 5, -1, 0])
    counted = np.array([[True, False, True, True]])
    baseline = leave_one_out(rewards, counted)
    np.testing.assert_allclose(baseline[0], [-0.5, np.nan, 0.5, 0])
    alone = leave_one_out(rewards, np.array([[True, False, False, False]]))
    assert np.isnan(alone).all()


def test_deviation_is_that_of_the_sample():
    """(1, -1, -1, 1): squares 4 over M - 1 = 3, so 1.1547; the population's would be 1."""
    rewards, counted = padded([1, -1, -1, 1], [3])
    np.testing.assert_allclose(group_deviation(rewards, counted)[0], np.sqrt(4 / 3))
    assert np.isnan(group_deviation(rewards, counted)[1]).all()


def test_groups_without_variance_are_seen_up_to_the_noise_of_scoring():
    rewards, counted = padded([1, 1, 1], [1, 1, 0], [1.0, 1.05], [2.0])
    noise = np.full(rewards.shape, 0.1)
    assert varies(rewards, noise, counted).tolist() == [False, True, False, False]
    assert varies(rewards, 0 * noise, counted).tolist() == [False, True, True, False]


def test_majority_by_hand():
    """7, 7, 3, none: the two sevens. A tie, or no answer at all: no label."""
    answers = np.array(
        [[7, 7, 3, -1], [1, 1, 2, 2], [-1, -1, -1, -1], [4, 5, -1, -1], [6, 0, 0, 0]]
    )
    present = np.ones((5, 4), dtype=bool)
    present[4, 1:] = False  # padding, whatever it holds
    found = majority(answers, present)
    assert found[0].tolist() == [1, 1, 0, 0]
    assert np.isnan(found[1:4]).all()
    assert found[4, 0] == 1
    assert np.isnan(found[4, 1:]).all()


def test_share_of_the_most_given_answer():
    answers = np.array([[7, 7, 3, -1], [-1, -1, -1, -1], [6, 6, 0, 0]])
    present = np.array([[True] * 4, [True] * 4, [True, True, False, False]])
    np.testing.assert_array_equal(largest_vote(answers, present), [0.5, np.nan, 1.0])


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (Spread(2.0, 10.0, 0.5), []),
        (Spread(0.9, 10.0, 0.5), ["entropy_collapse"]),
        (Spread(2.0, 4.9, 0.5), ["shrunken_length"]),
        (Spread(2.0, 21.0, 0.5), []),
        (Spread(2.0, 10.0, 0.95), ["vote_collapse"]),
        (Spread(0.1, 1.0, 1.0), ["entropy_collapse", "shrunken_length", "vote_collapse"]),
        (Spread(2.0, 10.0, None), []),
    ],
)
def test_collapse_is_named(now, named):
    first = Spread(2.0, 10.0, 0.5)
    assert list(collapse([first, Spread(0.0, 1.0, 1.0), now])) == named
    assert collapse([now]) == {}


def test_votes_that_agreed_from_the_start_have_not_collapsed():
    assert collapse([Spread(2.0, 10.0, 0.93), Spread(2.0, 10.0, 0.95)]) == {}
