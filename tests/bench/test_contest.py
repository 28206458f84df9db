"""Turns and their statistics, with a clock that the test turns on."""

from __future__ import annotations

import pytest

from cream.bench.contest import Contestant, ContestTurn, compare, take_turns


class Clock:
    """Time that passes only while somebody works."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def worker(self, name: str, *seconds: float) -> Contestant:
        left = list(seconds)

        def run() -> float:
            self.order.append(name)
            self.now += left.pop(0)
            return 10.0

        return Contestant(name, run)


def test_contestants_take_turns_and_the_warm_up_does_not_count():
    clock = Clock()
    contestants = [clock.worker("a", 9.0, 1.0, 2.0), clock.worker("b", 9.0, 4.0, 5.0)]

    turns = take_turns(contestants, 2, clock=clock, settle_seconds=0.0)

    assert clock.order == ["a", "b"] * 3
    assert turns == {
        "a": (ContestTurn(10.0, 1.0), ContestTurn(10.0, 2.0)),
        "b": (ContestTurn(10.0, 4.0), ContestTurn(10.0, 5.0)),
    }


def test_the_ratio_is_of_medians_and_the_spread_of_rounds():
    """Rates ours 10, 5, 2 and theirs 2, 1, 2: medians 5 and 2; ratios of rounds 5, 5, 1."""
    ours = [ContestTurn(10.0, 1.0), ContestTurn(10.0, 2.0), ContestTurn(10.0, 5.0)]
    theirs = [ContestTurn(10.0, 5.0), ContestTurn(10.0, 10.0), ContestTurn(10.0, 5.0)]

    found = compare(ours, theirs)

    assert (found.ours, found.theirs, found.ratio) == (5, 2, 2.5)
    assert (found.low, found.high, found.num_rounds) == (1, 5, 3)


def test_rates_count_the_work_of_each_turn():
    """Twice the work in twice the time is the same rate."""
    assert compare([ContestTurn(20.0, 2.0)], [ContestTurn(10.0, 1.0)]).ratio == 1


@pytest.mark.parametrize(("rounds", "names"), [(0, "ab"), (1, "aa")])
def test_no_round_and_two_of_one_name_are_refused(rounds: int, names: str):
    contestants = [Contestant(name, lambda: 1.0) for name in names]

    with pytest.raises(ValueError, match="rounds of"):
        take_turns(contestants, rounds, settle_seconds=0.0)


def test_rounds_of_different_number_are_not_compared():
    with pytest.raises(ValueError, match="shorter"):
        compare([ContestTurn(1.0, 1.0), ContestTurn(1.0, 1.0)], [ContestTurn(1.0, 1.0)])
