import numpy as np
import pytest

from cream.algorithms.groups import group_rows
from cream.algorithms.rewards import (
    Reward,
    difference,
    ensemble_lower_bound,
    ensemble_mean,
    ensemble_min,
    exact,
    length_alpha,
    likelihood,
    per_token,
    subtract_length,
    vote_share,
)
from cream.errors import DataError


def row(*values):
    return np.array([values], dtype=float)


def tokens(*counts):
    return np.array([counts], dtype=np.int64)


def test_implicit_reward_and_its_noise_follow_the_hand_derivation():
    """T = 4 and 16, noise floors 3 and 4 per root token: sums 6, 12 and 8, 16; difference 10, 20.

    Per token: reward (-2 - -6) / 4 = 1 and (-8 - -4) / 16 = -1/4; noise 10 / 4 and 20 / 16.
    """
    policy = likelihood(row(-2, -8), tokens(4, 16), noise_floor=3.0)
    seed = likelihood(row(-6, -4), tokens(4, 16), noise_floor=4.0)
    implicit = difference(policy, seed)
    mean = per_token(implicit, tokens(4, 16))

    np.testing.assert_allclose(policy.noise, row(6, 12), rtol=1e-15)
    np.testing.assert_allclose(implicit.values, row(4, -4), rtol=1e-15)
    np.testing.assert_allclose(implicit.noise, row(10, 20), rtol=1e-15)
    np.testing.assert_allclose(mean.values, row(1, -0.25), rtol=1e-15)
    np.testing.assert_allclose(mean.noise, row(2.5, 1.25), rtol=1e-15)


def test_completion_missing_under_one_model_has_no_implicit_reward():
    implicit = difference(exact(row(1, np.nan)), exact(row(np.nan, 1)))

    assert not implicit.scored.any()


def test_scored_completion_without_tokens_is_an_error_but_padding_is_not():
    assert per_token(exact(row(1, np.nan)), tokens(2, 0)).values[0, 0] == 0.5
    with pytest.raises(DataError, match="no tokens, first at prompt 0, member 1"):
        per_token(exact(row(1, 1)), tokens(2, 0))


@pytest.mark.parametrize(
    ("value", "noise", "message"),
    [(np.inf, 0.0, "infinite"), (1.0, -1.0, "noise"), (1.0, np.nan, "noise")],
)
def test_unusable_values_and_noise_are_refused(value, noise, message):
    with pytest.raises(DataError, match=message):
        Reward(row(0, value), row(0, noise))


def test_ensembles_follow_the_hand_derivation():
    """Values 1 and 5: mean 3, least 1, population std 2, so mean - 0.5 std = 2."""
    members = [Reward(row(1, 0), row(1, 1)), Reward(row(5, np.nan), row(3, 1))]
    lower = ensemble_lower_bound(members, num_stds=0.5)

    np.testing.assert_allclose(ensemble_mean(members).values, row(3, np.nan), rtol=1e-15)
    np.testing.assert_allclose(ensemble_mean(members).noise, row(2, 1), rtol=1e-15)
    np.testing.assert_allclose(ensemble_min(members).values, row(1, np.nan), rtol=1e-15)
    np.testing.assert_allclose(ensemble_min(members).noise, row(3, 1), rtol=1e-15)
    np.testing.assert_allclose(lower.values, row(2, np.nan), rtol=1e-15)
    np.testing.assert_allclose(lower.noise, row(3.5, 1.5), rtol=1e-15)


def test_ensemble_noise_bounds_the_effect_of_any_errors_within_the_members_noise():
    rng = np.random.default_rng(0)
    values, noise = rng.normal(size=(4, 1, 500)), rng.random((4, 1, 500))
    errors = noise * rng.choice([-1.0, 1.0], size=noise.shape)
    clean = [Reward(v, s) for v, s in zip(values, noise, strict=True)]
    noisy = [Reward(v + e, s) for v, e, s in zip(values, errors, noise, strict=True)]

    for combine in (
        ensemble_mean,
        ensemble_min,
        lambda rewards: ensemble_lower_bound(rewards, num_stds=2.0),
    ):
        moved = np.abs(combine(noisy).values - combine(clean).values)
        assert (moved <= combine(clean).noise + 1e-12).all()
        assert moved.max() > 0.1


@pytest.mark.parametrize("combine", [ensemble_mean, ensemble_min])
def test_empty_ensemble_is_refused(combine):
    with pytest.raises(DataError, match="at least one model"):
        combine([])


def test_rewarding_disagreement_is_refused():
    with pytest.raises(DataError, match="num_stds >= 0"):
        ensemble_lower_bound([exact(row(1))], num_stds=-1.0)


def test_length_alpha_removes_a_length_bias_that_was_planted():
    """reward = quality + 0.05 per token, quality independent of length: alpha must be near 0.05."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(5, 100, (4000, 6))
    biased = exact(rng.normal(size=lengths.shape) + 0.05 * lengths)
    everyone = np.ones(lengths.shape, dtype=bool)
    alpha = length_alpha(biased, lengths, everyone)
    fair = subtract_length(biased, lengths, alpha=alpha).values
    prompts = np.arange(len(fair))
    gap = lengths[prompts, fair.argmax(1)] - lengths[prompts, fair.argmin(1)]

    assert alpha == pytest.approx(0.05, abs=2e-3)
    assert abs(gap.mean()) <= 0.02  # one step of the function is at most 190 tokens / 4000


def test_length_alpha_is_negative_where_short_completions_are_favoured():
    rng = np.random.default_rng(1)
    lengths = rng.integers(1, 50, (1000, 4))
    reward = exact(rng.normal(size=lengths.shape) - 0.2 * lengths)

    alpha = length_alpha(reward, lengths, np.ones(lengths.shape, dtype=bool))

    assert alpha == pytest.approx(-0.2, abs=0.02)


def test_length_alpha_finds_the_jump_of_a_single_pair():
    """Rewards 3 and 1, lengths 5 and 1: order flips at alpha = 1/2, where the gap is +4 or -4."""
    alpha = length_alpha(exact(row(3, 1)), tokens(5, 1), np.array([[True, True]]))

    assert alpha == pytest.approx(0.5, abs=1e-8)


@pytest.mark.parametrize("counted", [[False, True], [False, False]])
def test_length_alpha_is_zero_without_groups(counted):
    assert length_alpha(exact(row(3, 1)), tokens(5, 1), np.array([counted])) == 0.0


def test_votes_count_every_copy_and_unanswered_completions_only_below_the_line():
    """Answers of hashes 1 1 2 3 4: a a a b none. Votes: a 3 of 5, b 1 of 5."""
    groups = group_rows(np.array([0, 5]), np.array([1, 1, 2, 3, 4]))
    shares = vote_share(np.array([[8, 8, 8, 9, -1]]), groups)

    np.testing.assert_allclose(shares.values, row(0.6, np.nan, 0.6, 0.2, np.nan), rtol=1e-15)


def test_equal_answers_of_different_prompts_do_not_vote_together():
    groups = group_rows(np.array([0, 1, 3]), np.array([1, 2, 3]))
    shares = vote_share(np.array([[4, 4], [4, 5]]), groups)

    np.testing.assert_allclose(shares.values, [[1, np.nan], [0.5, 0.5]], rtol=1e-15)
