"""Figures of a steered reward: arms, partners and disputed pairs, on rewards known by hand."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cream.algorithms.statistics import Absent, Interval
from cream.algorithms.steering import Choices
from cream.algorithms.steering_figures import ARMS, steering_figures

COUNT = 24


def user(sign: int, seed: int) -> Choices:
    """All pairs of the completions, the larger (or smaller) number preferred."""
    draw = np.random.default_rng(seed)
    pairs = [(a, b) for a in range(COUNT) for b in range(a)]
    taken = draw.permutation(len(pairs))[:120]
    ordered = np.array([pairs[k] if sign > 0 else pairs[k][::-1] for k in taken])
    return Choices(ordered[:, 0], ordered[:, 1])


def perfect(context: Choices) -> np.ndarray:
    """Reads the direction of the first choice."""
    if not len(context):
        return np.zeros(COUNT)
    return np.arange(COUNT) * float(np.sign(context.winners[0] - context.losers[0]))


def deaf(context: Choices) -> np.ndarray:
    return np.arange(COUNT, dtype=float)


def counting(context: Choices) -> np.ndarray:
    """Drifts with the number of choices, whoever made them."""
    return np.arange(COUNT) * float(len(context))


def mean(found: Interval | Absent) -> float:
    assert isinstance(found, Interval)
    return found.estimate


USERS = [user(1 if k % 2 else -1, seed=k) for k in range(12)]


@pytest.mark.parametrize(
    ("rewards", "own", "flipped", "index"),
    [(perfect, 1.0, 0.0, 0.5), (deaf, 0.5, 0.5, 0.0), (counting, 0.5, 0.5, 0.0)],
)
def test_arms_of_opposed_users(
    rewards: Callable[[Choices], np.ndarray], own: float, flipped: float, index: float
) -> None:
    """A perfect reader; one that reads nothing; one that drifts with C: the published policy.

    Half of the users prefer larger numbers, so what ignores the user is right for half of them.
    """
    (found,) = steering_figures(USERS, rewards, np.zeros(COUNT), sizes=[5], seed=0)
    assert mean(found.accuracy["own"]) == own
    assert mean(found.accuracy["flipped"]) == flipped
    assert mean(found.accuracy["pooled"]) == 0.5
    assert mean(found.gain["pooled"]) == own - 0.5
    assert mean(found.steering_index) == pytest.approx(index, abs=0.05)
    if rewards is not perfect:
        assert mean(found.gain["other"]) == 0


def test_another_users_context_is_no_better_than_that_users_taste() -> None:
    """Partners are of either taste: with the opposite one a perfect reader is always wrong."""
    (found,) = steering_figures(USERS, perfect, np.zeros(COUNT), sizes=[3], seed=1)
    assert mean(found.accuracy["other"]) < mean(found.accuracy["own"])
    assert mean(found.gain["other"]) == pytest.approx(
        mean(found.accuracy["own"]) - mean(found.accuracy["other"])
    )


def test_no_context_is_one_arm_for_all() -> None:
    (found,) = steering_figures(USERS, perfect, np.zeros(COUNT), sizes=[0], seed=0)
    assert {mean(found.accuracy[arm]) for arm in ARMS} == {0.5}


def test_contexts_and_targets_share_no_completion() -> None:
    """Every context that the reward is asked with, another user's too, is apart from targets."""
    seen: list[set[int]] = []

    def watch(context: Choices) -> np.ndarray:
        seen.append({*context.winners.tolist(), *context.losers.tolist()})
        return np.zeros(COUNT)

    kept: list[set[int]] = []

    def keep(targets: Choices) -> np.ndarray:
        kept.append({*targets.winners.tolist(), *targets.losers.tolist()})
        return np.ones(len(targets), dtype=bool)

    steering_figures(USERS[:4], watch, np.zeros(COUNT), sizes=[4], seed=0, keep=keep)
    contexts = [c for c in seen if c]
    assert len(contexts) == 12  # own, other and flipped of four users
    for number, shown in enumerate(contexts):
        assert not shown & kept[number // 3]


def test_a_filter_leaves_only_its_targets_and_users_without_any_out() -> None:
    (all_of_them,) = steering_figures(USERS, perfect, np.zeros(COUNT), sizes=[2], seed=0)
    (near,) = steering_figures(
        USERS,
        perfect,
        np.zeros(COUNT),
        sizes=[2],
        seed=0,
        keep=lambda targets: abs(targets.winners - targets.losers) < 3,
    )
    assert 0 < near.targets < all_of_them.targets
    (none,) = steering_figures(
        USERS,
        perfect,
        np.zeros(COUNT),
        sizes=[2],
        seed=0,
        keep=lambda targets: np.zeros(len(targets), dtype=bool),
    )
    assert none.accuracy["own"] is Absent.NO_ITEMS


def test_users_with_fewer_choices_are_left_out_at_that_size() -> None:
    few = [*USERS[:6], *[u.take(range(6)) for u in USERS[6:]]]
    small, large = steering_figures(few, perfect, np.zeros(COUNT), sizes=[1, 5], seed=0)
    assert isinstance(small.accuracy["own"], Interval)
    assert isinstance(large.accuracy["own"], Interval)
    assert small.accuracy["own"].num_items > large.accuracy["own"].num_items == 6
