import numpy as np
import pytest

from cream.algorithms.groups import group_rows, pad
from cream.algorithms.pairing import (
    Outcome,
    all_pairs,
    best_random,
    best_worst,
    best_worst_between,
    drop_truncated,
    keep_truncated,
    majority_vote,
    top_bottom,
    unanimous,
)
from cream.algorithms.rewards import Reward, exact, penalise_truncated, vote_share
from cream.errors import DataError


def one_group(values, *, noise=0.0, hashes=None):
    hashes = np.arange(len(values)) if hashes is None else np.array(hashes)
    groups = group_rows(np.array([0, len(values)]), hashes)
    padded = pad(np.array(values, dtype=float), groups)
    return groups, Reward(padded, np.full_like(padded, noise))


def candidates(values, *, noise=0.0, hashes=None):
    return keep_truncated(*one_group(values, noise=noise, hashes=hashes))


def members(pairs):
    return list(zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True))


def test_best_is_paired_with_worst():
    pairs = best_worst(candidates([1, 4, -2, 3]))

    assert members(pairs) == [(1, 2)]
    assert pairs.gap.tolist() == [6.0]
    assert pairs.tally.parts["paired"] == pairs.tally.total == 1


@pytest.mark.parametrize(
    ("values", "options", "expected"),
    [
        ([1], {}, Outcome.SINGLE),
        ([], {}, Outcome.SINGLE),
        ([1, 1, 1], {"hashes": [5, 5, 5]}, Outcome.ALL_DUPLICATES),
        ([1, np.nan, np.nan], {}, Outcome.UNSCORED),
        ([2, 2, 2], {}, Outcome.TIED),
        ([1, 2, 3], {"noise": 2.0}, Outcome.TIED),
        ([1, 1.5, 1.25], {}, Outcome.BELOW_MIN_GAP),
        ([1, 2], {}, Outcome.PAIRED),
    ],
)
def test_prompt_without_a_pair_has_its_reason(values, options, expected):
    """Minimum gap 1, reached by a gap of exactly 1."""
    chosen_from = candidates(values, **options)
    for pairs in (
        best_worst(chosen_from, min_gap=1.0),
        best_random(chosen_from, np.random.default_rng(0), min_gap=1.0),
        all_pairs(chosen_from, min_gap=1.0),
        top_bottom(chosen_from, k=2, min_gap=1.0),
    ):
        assert Outcome(pairs.outcome[0]) is expected
        assert (len(pairs.prompt) > 0) == (expected is Outcome.PAIRED)
        assert pairs.tally.parts[expected.name.lower()] == 1


def test_truncated_completions_are_kept_dropped_or_penalised():
    """Best (3) is cut off. Kept it is chosen; dropped 2 is; penalised by 5 it is the worst."""
    groups, reward = one_group([3, 2, 1])
    truncated = np.array([[True, False, False]])

    assert members(best_worst(keep_truncated(groups, reward))) == [(0, 2)]
    assert members(best_worst(drop_truncated(groups, reward, truncated))) == [(1, 2)]
    penalised = penalise_truncated(reward, truncated, penalty=np.full((1, 3), 5.0))
    assert members(best_worst(keep_truncated(groups, penalised))) == [(1, 0)]
    with pytest.raises(DataError, match="must be > 0"):
        penalise_truncated(reward, truncated, penalty=np.zeros((1, 3)))


@pytest.mark.parametrize("cut_off", [[True, True, True], [True, True, False]])
def test_prompt_left_without_two_completions_by_truncation_says_so(cut_off):
    groups, reward = one_group([3, 2, 1])
    pairs = best_worst(drop_truncated(groups, reward, np.array([cut_off])))

    assert Outcome(pairs.outcome[0]) is Outcome.TRUNCATED


def test_binary_reward_breaks_its_ties_by_the_second_reward():
    """Right: 0 2 3, wrong: 1 4. Most likely right is 3, least likely wrong is 4."""
    chosen_from = candidates([1, 0, 1, 1, 0])
    second = exact(np.array([[-3.0, -1, -2, -0.5, -9]]))

    assert members(best_worst(chosen_from, tie_break=second)) == [(3, 4)]
    assert best_worst(chosen_from, tie_break=second).gap.tolist() == [1.0]


def test_tie_break_makes_no_pair_of_equal_rewards():
    pairs = best_worst(candidates([1, 1]), tie_break=exact(np.array([[0.0, 5.0]])))

    assert Outcome(pairs.outcome[0]) is Outcome.TIED


def test_unscored_tie_break_ranks_below_all_scored_ones():
    chosen_from = candidates([1, 1, 0])

    assert members(best_worst(chosen_from, tie_break=exact(np.array([[np.nan, -9.0, 0]])))) == [
        (1, 2)
    ]


def test_random_rejected_is_uniform_among_those_clearly_below():
    """Best 10, noise 1: 9 is tied, 8.5, 5 and 0 are below. 6000 draws: a third each, +- 2.5 %."""
    groups = group_rows(np.arange(6001) * 5, np.tile(np.arange(5), 6000))
    values = np.tile([10.0, 9, 8.5, 5, 0], (6000, 1))
    reward = Reward(values, np.ones_like(values))
    pairs = best_random(keep_truncated(groups, reward), np.random.default_rng(0))
    share = np.bincount(pairs.rejected, minlength=5) / 6000

    assert (pairs.chosen == 0).all()
    np.testing.assert_allclose(share, [0, 0, 1 / 3, 1 / 3, 1 / 3], atol=0.025)


def test_all_pairs_are_those_above_the_gap():
    """Values 0 1 3: gaps 1, 2 and 3; at least 2 are 3 over 1 and 3 over 0."""
    assert set(members(all_pairs(candidates([0, 1, 3]), min_gap=2.0))) == {(2, 1), (2, 0)}
    assert len(members(all_pairs(candidates([0, 1, 3])))) == 3


def test_top_two_meet_bottom_two_and_overlapping_sets_repeat_nothing():
    assert set(members(top_bottom(candidates([5, 1, 4, 2, 3]), k=2))) == {
        (0, 1),
        (0, 3),
        (2, 1),
        (2, 3),
    }
    small = members(top_bottom(candidates([3, 2, 1]), k=2))
    assert sorted(small) == [(0, 1), (0, 2), (1, 2)]
    assert members(top_bottom(candidates([1, 4, -2, 3]), k=1)) == [(1, 2)]
    with pytest.raises(DataError, match="k >= 1"):
        top_bottom(candidates([1, 2]), k=0)


def test_majority_vote_weighs_by_the_difference_of_shares():
    """Answers a a a b of 4 completions, the first two a copy: 3/4 against 1/4, weight 1/2.

    Among the a's the more likely one is chosen.
    """
    groups = group_rows(np.array([0, 4]), np.array([1, 1, 2, 3]))
    votes = vote_share(np.array([[7, 7, 7, 8]]), groups)
    likelihood = exact(np.array([[-5.0, -5, -1, -1]]))
    pairs = majority_vote(keep_truncated(groups, votes), tie_break=likelihood, min_share=0.75)

    assert members(pairs) == [(2, 3)]
    assert pairs.gap.tolist() == [0.5]


def test_majority_vote_without_a_majority_makes_no_pair():
    groups = group_rows(np.array([0, 4]), np.arange(4))
    votes = vote_share(np.array([[7, 7, 8, 9]]), groups)
    pairs = majority_vote(keep_truncated(groups, votes), min_share=0.6)

    assert len(pairs.prompt) == 0
    assert Outcome(pairs.outcome[0]) is Outcome.NO_MAJORITY
    assert pairs.tally.parts["no_majority"] == 1


def test_groups_that_do_not_fit_into_one_chunk_are_paired_alike(monkeypatch):
    rng = np.random.default_rng(0)
    groups = group_rows(np.arange(51) * 6, rng.integers(0, 20, 300))
    reward = exact(rng.normal(size=(50, 6)))
    whole = all_pairs(keep_truncated(groups, reward))
    monkeypatch.setattr("cream.algorithms.groups.CELLS_PER_CHUNK", 100)
    cut = all_pairs(keep_truncated(groups, reward))

    for column in ("prompt", "chosen", "rejected", "gap", "outcome"):
        np.testing.assert_array_equal(getattr(cut, column), getattr(whole, column))


# --- completions of several models ---


def between(values, made_by, *, tie_break=None, min_gap=0.0, truncated=None, hashes=None):
    """Members 0, 1, ... made by the policy (m), the past (p) or the future model (f)."""
    groups, reward = one_group(values, hashes=hashes)
    cut = np.array([truncated or [False] * len(values)])
    makers = np.array([list(made_by)])
    return best_worst_between(
        drop_truncated(groups, reward, cut),
        chosen=np.isin(makers, ["m", "f"]),
        rejected=np.isin(makers, ["m", "p"]),
        own=makers == "m",
        min_gap=min_gap,
        tie_break=None if tie_break is None else exact(np.array([tie_break], dtype=float)),
    )


@pytest.mark.parametrize(
    ("values", "made_by", "expected"),
    [
        ([3, 2, 4, 1], "mmfp", (2, 3)),
        ([3, 2, 3, 2], "mmfp", (0, 1)),  # as good, as bad: the policy's own
        ([3, 2, 1, 4], "mmfp", (0, 1)),  # a bad future, a good past
        ([3, 1, 2, 2], "ppmf", (2, 1)),  # a past completion is never chosen, however good
        ([2, 2, 0, 5], "mpfp", None),  # a future one never rejected, however bad
        ([1, 2, 3], "mff", (2, 0)),
        ([2, 3, 1], "mpp", (0, 2)),
    ],
)
def test_best_of_present_and_future_is_paired_with_worst_of_present_and_past(
    values, made_by, expected
):
    pairs = between(values, made_by)

    assert members(pairs) == ([] if expected is None else [expected])
    assert Outcome(pairs.outcome[0]) is (Outcome.PAIRED if expected else Outcome.TIED)


def test_the_tie_break_orders_completions_of_one_model_only():
    """Three own ones at 2 with tie-breaks 5, 7, 6: the second is chosen, though a future one has 9.

    Two past ones share the lowest score: the one with the lower tie-break is rejected.
    """
    pairs = between([2, 2, 2, 2, 1, 1], "mmmfpp", tie_break=[5, 7, 6, 9, 4, 3])

    assert members(pairs) == [(1, 5)]


def test_what_of_two_models_lacks_one_side_is_counted_by_its_reason():
    assert Outcome(between([1, 2], "pp").outcome[0]) is Outcome.UNSCORED
    assert Outcome(between([np.nan, 2, 3], "mpp").outcome[0]) is Outcome.UNSCORED
    truncated = between([5, 2, 3], "mpp", truncated=[True, False, False])
    assert Outcome(truncated.outcome[0]) is Outcome.TRUNCATED
    assert Outcome(between([2, 1], "mp", min_gap=2.0).outcome[0]) is Outcome.BELOW_MIN_GAP
    assert members(between([2, 1], "mp", min_gap=1.0)) == [(0, 1)]


def test_of_one_model_alone_it_is_best_against_worst():
    rng = np.random.default_rng(0)
    for _ in range(50):
        values = rng.integers(0, 4, 6).astype(float)
        tie_break = rng.integers(0, 3, 6)
        expected = best_worst(candidates(values), tie_break=exact(np.array([tie_break * 1.0])))
        assert members(between(values, "m" * 6, tie_break=tie_break)) == members(expected)


@pytest.mark.parametrize(
    ("values", "hashes", "truncated", "by_vote", "expected"),
    [
        ([3, 3, 3], [5, 5, 5], [0, 0, 0], False, [0]),  # three copies of one completion
        ([3, 3, 4], [5, 5, 6], [0, 0, 0], False, []),  # another one among them
        ([3], [5], [0], False, []),  # alone it agrees with nobody
        ([3, 3], [5, 5], [1, 1], False, []),  # cut off: said nothing whole
        ([1, 1, 1], [5, 6, 7], [0, 0, 0], True, [2]),  # three texts, one answer; the best of them
        ([2 / 3, 2 / 3, 1 / 3], [5, 6, 7], [0, 0, 0], True, []),
        ([2 / 3, 2 / 3, np.nan], [5, 6, 7], [0, 0, 0], True, []),  # one gave no answer
        ([1, 1], [5, 6], [0, 1], True, []),  # one was cut off
    ],
)
def test_a_group_is_unanimous_if_all_of_it_says_the_same(
    values, hashes, truncated, by_vote, expected
):
    groups, reward = one_group(values, hashes=hashes)
    cut = np.array([truncated], dtype=bool)
    better = exact(np.where(groups.present, np.arange(len(values))[None], np.nan))
    prompts, chosen = unanimous(
        drop_truncated(groups, reward, cut), by_vote=by_vote, tie_break=better
    )

    assert chosen.tolist() == expected
    assert prompts.tolist() == [0] * len(expected)


def test_unanimous_groups_are_found_among_others_in_order():
    """Of four prompts the first and the last say one thing each."""
    hashes = np.array([1, 1, 2, 3, 4, 5, 6, 6, 6])
    groups = group_rows(np.array([0, 2, 4, 6, 9]), hashes)
    reward = exact(pad(np.zeros(9), groups))

    prompts, chosen = unanimous(keep_truncated(groups, reward), by_vote=False)

    assert (prompts.tolist(), chosen.tolist()) == ([0, 3], [0, 0])
