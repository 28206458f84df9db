from __future__ import annotations

import numpy as np
import pytest

from cream.algorithms.statistics import Absent, Interval, bootstrap_mean
from cream.algorithms.two_level import two_level_interval
from cream.errors import DataError

NAN = float("nan")


def interval(values: list[list[float]], *, num_resamples: int = 4000) -> Interval:
    table = np.array(values, dtype=np.float64)
    found = two_level_interval(table, np.random.default_rng(0), num_resamples=num_resamples)
    assert isinstance(found, Interval)
    return found


def width(found: Interval) -> float:
    return found.high - found.low


def test_runs_weigh_alike_however_many_items_they_have():
    """(1 + 0) / 2 of the run means; the mean over all five values would be 1/5."""
    found = interval([[1, NAN, NAN, NAN, NAN], [NAN, 0, 0, 0, 0]])

    assert found.estimate == 0.5
    assert found.num_items == 5


def test_runs_are_drawn_even_where_items_do_not_vary():
    """Two runs of 0 and 1 give means 0, 1/2, 1 with chances 1/4, 1/2, 1/4: 95 % reach both ends."""
    found = interval([[0, 0, 0], [1, 1, 1]])

    assert (found.estimate, found.low, found.high) == (0.5, 0.0, 1.0)


def test_values_without_spread_have_an_interval_without_width():
    found = interval([[0.25, 0.25], [0.25, 0.25]])

    assert (found.estimate, found.low, found.high) == (0.25, 0.25, 0.25)


def test_one_run_is_the_bootstrap_over_its_items():
    """Both draw 200 items; the bounds agree within the noise of 4000 resamples."""
    values = (np.arange(200) % 5 == 0).astype(np.float64)
    plain = bootstrap_mean(values, np.random.default_rng(1), num_resamples=4000)
    found = interval([values.tolist()])

    assert isinstance(plain, Interval)
    assert found.estimate == plain.estimate == 0.2
    assert found.low == pytest.approx(plain.low, abs=0.01)
    assert found.high == pytest.approx(plain.high, abs=0.01)


def test_items_that_runs_share_are_drawn_once_for_all_of_them():
    """Four runs with equal answers to the same items know no more than one run.

    With items of their own the mean over runs has a quarter of the variance; drawing the runs too
    multiplies it by E[w^2] = 2 - 1/4 for multinomial weights w, so the width by sqrt(1.75) / 2.
    """
    row = (np.arange(100) % 2).astype(np.float64)
    own = np.full((4, 400), NAN)
    for run in range(4):
        own[run, 100 * run : 100 * (run + 1)] = row
    alone, shared = interval([row.tolist()]), interval([row.tolist()] * 4)
    apart = interval(own.tolist())

    assert width(shared) == pytest.approx(width(alone), rel=0.1)
    assert width(apart) == pytest.approx(width(alone) * 1.75**0.5 / 2, rel=0.1)


def test_both_levels_add_up():
    """Means 0 and 1, of which the first varies with its items: beyond the ends of the runs alone.

    Both runs drawn as the first (chance 1/4), its mean below 0 (1/2): more than 2.5 % in all.
    """
    first = np.arange(25) % 2 - 0.48  # 12 of 25 are odd: mean 0, standard error 0.1
    table = np.full((2, 50), NAN)
    table[0, :25], table[1, 25:] = first, 1.0
    found = interval(table.tolist())

    assert found.estimate == pytest.approx(0.5)
    assert -0.25 < found.low < -0.05
    assert found.high == 1.0


def test_what_cannot_be_averaged_is_refused():
    generator = np.random.default_rng(0)

    assert two_level_interval(np.empty((0, 0)), generator) is Absent.NO_ITEMS
    with pytest.raises(DataError, match="run 1 has no item"):
        two_level_interval(np.array([[1.0], [NAN]]), generator)
    with pytest.raises(DataError, match="infinite"):
        two_level_interval(np.array([[np.inf]]), generator)
