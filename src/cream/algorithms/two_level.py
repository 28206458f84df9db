"""Intervals for figures that vary over training seeds and over items: both are drawn again.

One table holds a value per run (row) and item (column), NaN where a run lacks the item. Runs may
share their items (a test set from a file) or have their own (generated per seed): columns are drawn
within groups of items that the same runs have, so shared items are drawn once for all runs that
have them, and items of one run independently of the others'.

With S runs the variance between runs comes out too small, by the factor (S - 1) / S, so that one
run tells nothing of it; the variance of items that each run has for itself comes out too large, by
2 - 1 / S, because runs drawn twice bring the same items twice.

Source: Owen 2007, The pigeonhole bootstrap, arXiv:0712.1111 (rows and columns drawn independently);
the nested case is the two-stage bootstrap of Davison and Hinkley 1997, section 3.8.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64

from cream.algorithms.groups import chunks
from cream.algorithms.statistics import Absent, Interval
from cream.errors import DataError


def two_level_interval(
    values: Float64[np.ndarray, "run item"],
    generator: np.random.Generator,
    *,
    num_resamples: int = 1000,
    level: float = 0.95,
) -> Interval | Absent:
    """Mean over runs of the mean over each run's items, with its percentile bootstrap interval.

    Args:
        values: One row per run; NaN where the run does not have the item, finite elsewhere.
        generator: Random stream of the resamples.
        num_resamples: How often runs and items are drawn.
        level: Probability that the interval is meant to cover.

    Returns:
        The interval, its ``num_items`` counting the values that are there. For differences between
        two methods give the differences, run by run and item by item: pairing takes out what the
        two share.

    Raises:
        DataError: A value is infinite, or a run has no item at all.

    """
    present = ~np.isnan(values)
    if values.size == 0:
        return Absent.NO_ITEMS
    if np.isinf(values).any():
        raise DataError("a value is infinite; select the defined ones first.")
    counts = present.sum(axis=1)
    if not counts.all():
        raise DataError(f"run {int(np.argmin(counts))} has no item; leave it out of the table.")
    filled = np.where(present, values, 0.0)
    means = _resampled_means(filled, present, generator, num_resamples)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2]).tolist()
    estimate = float((filled.sum(axis=1) / counts).mean())
    return Interval(estimate, low, high, int(counts.sum()), level)


def _resampled_means(
    filled: Float64[np.ndarray, "run item"],
    present: np.ndarray,
    generator: np.random.Generator,
    num_resamples: int,
) -> Float64[np.ndarray, " resample"]:
    """Mean over drawn runs of the mean over drawn items; `filled` is 0 where nothing is present.

    Sums are divided last: those of verdicts are whole numbers, exact in any order of adding, so the
    mean of verdicts that are all right is 1 on every machine.
    """
    num_runs, num_items = filled.shape
    patterns, group_of = np.unique(present, axis=1, return_inverse=True)
    groups = [np.flatnonzero(group_of.ravel() == g) for g in range(patterns.shape[1])]
    means = np.empty(num_resamples)
    for part in chunks(num_resamples, num_items):
        size = part.stop - part.start
        per_run = np.zeros((size, num_runs))
        for items in groups:
            drawn = generator.multinomial(len(items), np.full(len(items), 1 / len(items)), size)
            per_run += drawn @ filled[:, items].T
        runs = generator.multinomial(num_runs, np.full(num_runs, 1 / num_runs), size)
        means[part] = (runs * (per_run / present.sum(axis=1))).sum(axis=1) / num_runs
    return means
