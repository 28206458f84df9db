"""C of noise, by hand and by simulation, and statistics that do not see what is shared."""

import math

import numpy as np
import pytest

from cream.algorithms.consistency import consistency_rates, definedness_tally
from cream.algorithms.null_consistency import (
    Rating,
    gaussian_null,
    partial_kendall,
    permuted_null,
    residual_kendall,
    residuals,
    without_shared,
)
from cream.algorithms.ranking import Definedness, kendall_tau
from cream.algorithms.rewards import Reward, exact
from cream.algorithms.statistics import Absent, Interval


def everyone(values):
    return np.ones(values.shape, dtype=bool)


def against(policy, seed):
    """An implicit reward: log pi - log pi_0."""
    return Rating(exact(policy - seed), exact(-seed))


def noise(size, stds=(1.0, 1.0, 1.0), draw=None, seed=0):
    """The rewards of three models that have nothing to do with each other."""
    rng = np.random.default_rng(seed)
    draw = draw or (lambda r, s: r.normal(size=s))
    current, previous, seed_model = (std * draw(rng, size) for std in stds)
    return against(current, seed_model), against(previous, seed_model), everyone(current)


def c_of(statistic, first, second, counted):
    return consistency_rates(statistic(first, second, counted))


def plain(first, second, counted):
    return kendall_tau(first.reward, second.reward, counted)


def mean(agreement):
    return float(agreement.values[agreement.defined].mean())


@pytest.mark.parametrize(
    ("stds", "expected"),
    [
        ((1.0, 1.0, 1.0), 2 / 3),  # rho = 1/2, arcsin 30 degrees: 1/2 + 1/6
        ((1.0, 1.0, 0.0), 1 / 2),
        ((1.0, 2.0, 3.0), 0.5 + math.asin(9 / math.sqrt(10 * 13)) / math.pi),
    ],
)
def test_noise_agrees_as_the_formula_says(stds, expected):
    """20,000 prompts of 5: standard errors 0.0014 (C) and 0.002 (variances)."""
    first, second, counted = noise((20_000, 5), stds)

    assert mean(c_of(plain, first, second, counted)) == pytest.approx(expected, abs=0.006)
    assert gaussian_null(first, second, counted) == pytest.approx(expected, abs=0.006)


def test_the_gaussian_value_of_ratings_by_hand():
    """Deviations of the rests: +-1, +-1; of the shared term +-2: rho = 4 / (1 + 4)."""
    shared = np.array([[2.0, -2.0, 2.0, -2.0]])
    a, b = np.array([[1.0, 1.0, -1.0, -1.0]]), np.array([[1.0, -1.0, -1.0, 1.0]])
    ratings = [Rating(exact(own + shared), exact(shared)) for own in (a, b)]

    found = gaussian_null(ratings[0], ratings[1], everyone(a))
    assert found == pytest.approx(0.5 + math.asin(0.8) / math.pi)


@pytest.mark.parametrize("members", [2, 3, 4, 8])
@pytest.mark.parametrize(
    "draw",
    [
        lambda r, s: r.normal(size=s),
        lambda r, s: r.exponential(size=s),
        lambda r, s: r.standard_t(3, size=s) * np.exp(r.normal(size=(s[0], 1))),
    ],
    ids=["normal", "exponential", "heavy tails, other scales in each prompt"],
)
def test_noise_has_a_residual_c_of_a_half_and_the_c_that_permutations_give(members, draw):
    """4,000 prompts: standard error at most 0.5 / sqrt(4,000) = 0.008 (two completions)."""
    first, second, counted = noise((4_000, members), draw=draw)
    rng = np.random.default_rng(1)
    null = permuted_null(
        first,
        second,
        counted,
        lambda *r: c_of(plain, *r, counted),  # pyright: ignore
        rng,
        num_permutations=20,  # pyright: ignore
    )

    assert isinstance(null, Interval)
    assert null.low < null.estimate < null.high
    assert null.num_items == 20
    measured = mean(c_of(plain, first, second, counted))
    assert measured > 0.64
    assert measured == pytest.approx(null.estimate, abs=0.025)
    assert mean(c_of(residual_kendall, first, second, counted)) == pytest.approx(0.5, abs=0.02)


def test_few_prompts_do_not_pull_the_residual_to_either_side():
    """Three prompts of four, 1,500 times: standard error 0.004, though the slopes scatter."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(1_500):
        current, previous, seed = rng.exponential(size=(3, 3, 4))
        ratings = against(current, seed), against(previous, seed)
        found.append(mean(c_of(residual_kendall, *ratings, everyone(seed))))

    assert np.mean(found) == pytest.approx(0.5, abs=0.013)


def test_agreement_beyond_the_shared_term_stays():
    """Rests of correlation 0.8: C = 1/2 + asin(0.8) / pi = 0.795, whatever log pi_0 does."""
    rng = np.random.default_rng(0)
    current, other, seed = rng.normal(size=(3, 20_000, 5))
    previous = 0.8 * current + 0.6 * other
    ratings = against(current, 3 * seed), against(previous, 3 * seed)

    expected = 0.5 + math.asin(0.8) / math.pi
    found = mean(c_of(residual_kendall, *ratings, everyone(seed)))
    assert found == pytest.approx(expected, abs=0.005)
    assert mean(c_of(plain, *ratings, everyone(seed))) > 0.9


def test_permutations_break_what_relates_the_policies_beside_the_shared_term():
    """Equal policies have C = 1; their null is that of unrelated ones, 2/3 (a bit more for few
    completions, since the policies' spreads within a prompt stay equal)."""
    rng = np.random.default_rng(0)
    current, seed = rng.normal(size=(2, 400, 60))
    rating, counted = against(current, seed), everyone(seed)

    null = permuted_null(
        rating,
        rating,
        counted,
        lambda *r: c_of(plain, *r, counted),  # pyright: ignore
        rng,
        num_permutations=20,  # pyright: ignore
    )
    assert mean(c_of(plain, rating, rating, counted)) == 1
    assert isinstance(null, Interval)
    assert null.estimate == pytest.approx(2 / 3, abs=0.006)


def test_permutations_depend_on_the_generator_alone_and_leave_out_what_is_not_compared():
    first, second, counted = noise((30, 5))
    counted[:, 4] = False
    values = first.reward.values.copy()
    values[:, 4] = np.nan
    first = Rating(exact(values), first.shared)

    def null(seed):
        rates = lambda *r: c_of(plain, *r, counted)  # noqa: E731  # pyright: ignore
        return permuted_null(first, second, counted, rates, np.random.default_rng(seed))

    assert null(1) == null(1) != null(2)


def test_the_residual_by_hand():
    """x = -1, 0, 1 and J = 3, 0, 3 + 2: slope (2 * 1) / 2 = 1, rest 4, 0, 4."""
    x, j = np.array([[-1.0, 0.0, 1.0]]), np.array([[3.0, 0.0, 5.0]])
    found = without_shared(Rating(exact(j), exact(x)), everyone(x))

    assert found.slope == 1
    np.testing.assert_allclose(found.reward.values, [[4.0, 0.0, 4.0]])


def test_one_slope_is_shared_by_all_prompts():
    """Slopes 1 (spread 2) and 3 (spread 8) weigh as the squares do: (2 + 24) / (2 + 8)."""
    x = np.array([[-1.0, 1.0], [-2.0, 2.0]])
    found = without_shared(Rating(exact(x * [[1.0], [3.0]]), exact(x)), everyone(x))

    assert found.slope == pytest.approx(2.6)


def test_a_constant_log_pi_0_explains_nothing_and_has_no_slope():
    rng = np.random.default_rng(0)
    current, previous = rng.normal(size=(2, 50, 4))
    seed = np.repeat(rng.normal(size=(50, 1)), 4, axis=1)
    ratings, counted = (against(current, seed), against(previous, seed)), everyone(current)

    assert [r.slope for r in residuals(*ratings, counted)] == [Absent.NO_VARIATION] * 2
    for statistic in (residual_kendall, partial_kendall):
        found = statistic(*ratings, counted).values
        np.testing.assert_allclose(found, plain(*ratings, counted).values)
    assert gaussian_null(*ratings, counted) == 0.5


def test_ties_stay_ties_and_a_rating_that_is_the_shared_term_leaves_nothing():
    x = np.array([[0.0, 1.0, 2.0]])
    tied = Rating(exact(np.zeros((1, 3))), exact(x))
    itself = Rating(exact(x), exact(x))
    other = Rating(exact(np.array([[1.0, 0.0, 2.0]])), exact(x))
    counted = everyone(x)

    assert residual_kendall(itself, other, counted).definedness[0] == Definedness.FIRST_TIED
    assert residual_kendall(other, tied, counted).definedness[0] == Definedness.SECOND_TIED
    assert gaussian_null(tied, Rating(tied.reward, tied.reward), counted) is Absent.NO_VARIATION
    rng = np.random.default_rng(0)
    rates = lambda *r: c_of(plain, *r, counted)  # noqa: E731  # pyright: ignore
    nothing = Rating(tied.reward, tied.reward)
    assert permuted_null(nothing, nothing, counted, rates, rng) is Absent.NO_ITEMS


def test_the_dead_zone_of_a_rating_is_that_of_what_is_left_of_it():
    """Rests 0 and 0.5 apart, noise 1: tied, as they would be without the shared term."""
    x = np.array([[0.0, 9.0, 0.0, 9.0]])
    own = np.array([[0.0, 0.0, 0.5, 0.5]])
    noisy = Rating(Reward(own + x, np.ones((1, 4))), exact(x))
    sharp = Rating(exact(own + x), exact(x))

    assert without_shared(noisy, everyone(x)).slope == pytest.approx(1)
    agreement = residual_kendall(noisy, sharp, everyone(x))
    assert agreement.definedness[0] == Definedness.FIRST_TIED


def test_the_partial_tau_by_hand():
    """J = 1 2 3 4, K = 1 2 4 3, x = 1 3 2 4: tau_JK = tau_Jx = 2/3, tau_Kx = 1/3."""
    x = np.array([[1.0, 3.0, 2.0, 4.0]])
    first = Rating(exact(np.array([[1.0, 2.0, 3.0, 4.0]])), exact(x))
    second = Rating(exact(np.array([[1.0, 2.0, 4.0, 3.0]])), exact(x))

    found = partial_kendall(first, second, everyone(x))
    assert found.values[0] == pytest.approx((2 / 3 - 2 / 9) / math.sqrt(5 / 9 * 8 / 9))


def test_the_partial_tau_of_noise_is_a_ninth():
    """tau_12 = 1/3, tau_1 = tau_2 = 1/2: (1/3 - 1/4) / (3/4) = 1/9, of many completions."""
    first, second, counted = noise((400, 60))

    assert partial_kendall(first, second, counted).values.mean() == pytest.approx(1 / 9, abs=0.01)
    assert residual_kendall(first, second, counted).values.mean() == pytest.approx(0, abs=0.01)


def test_a_partial_tau_needs_rankings_that_log_pi_0_does_not_decide():
    first, second, counted = noise((300, 4))
    found = partial_kendall(first, second, counted)
    undecided = found.definedness == Definedness.DEFINED

    for rating in (first, second):
        tau = kendall_tau(rating.reward, rating.shared, counted).values
        assert (abs(tau[undecided]) < 1).all()
    decides = int((found.definedness == Definedness.SHARED_DECIDES).sum())
    assert definedness_tally(found).parts["shared_decides"] == decides > 50
    assert decides + undecided.sum() == 300
    two = noise((20, 2))
    assert (partial_kendall(*two).definedness == Definedness.SHARED_DECIDES).all()
    assert "shared_decides" not in definedness_tally(plain(*two)).parts
