"""The whole path from a score table to pairs and C, on random tables of any shape."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from score_tables import Table, random_table

from cream.algorithms.consistency import (
    consistency_rates,
    null_variance,
    shrunken_level,
    summarise,
)
from cream.algorithms.groups import group_rows, pad, pad_counts
from cream.algorithms.pairing import (
    Candidates,
    Outcome,
    Pairs,
    all_pairs,
    best_random,
    best_worst,
    drop_truncated,
    keep_truncated,
    majority_vote,
    top_bottom,
)
from cream.algorithms.ranking import kendall_tau, spearman, top_order, weighted_tau
from cream.algorithms.rewards import difference, likelihood, vote_share

RULES = {
    "best_worst": best_worst,
    "best_random": lambda c: best_random(c, np.random.default_rng(0)),
    "all_pairs": all_pairs,
    "top_bottom": lambda c: top_bottom(c, k=3),
    "min_gap": lambda c: best_worst(c, min_gap=2.5),
}
SHAPES = [(1, 2), (1, 64), (30, 5), (400, 3), (60, 64), (3000, 8)]


def choose_from(table: Table, noise: float) -> Candidates:
    return drop_truncated(table.groups, table.reward(table.first, noise), table.cut_off)


def assert_sound(pairs: Pairs, candidates: Candidates) -> None:
    values, noise = candidates.reward.values, candidates.reward.noise
    chosen, rejected = (pairs.prompt, pairs.chosen), (pairs.prompt, pairs.rejected)
    assert candidates.eligible[chosen].all()
    assert candidates.eligible[rejected].all()
    np.testing.assert_array_equal(pairs.gap, values[chosen] - values[rejected])
    assert (pairs.gap > np.maximum(noise[chosen], noise[rejected])).all()
    paired = np.zeros(len(pairs.outcome), dtype=bool)
    paired[pairs.prompt] = True
    np.testing.assert_array_equal(pairs.outcome == Outcome.PAIRED, paired)
    assert pairs.tally.total == len(values)
    keys = np.stack([pairs.prompt, pairs.chosen, pairs.rejected])
    assert np.unique(keys, axis=1).shape == keys.shape


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rule", RULES)
def test_pairs_are_sound_and_every_prompt_has_one_outcome(rule, shape):
    for seed in range(3):
        candidates = choose_from(random_table(np.random.default_rng(seed), *shape), noise=1.0)
        assert_sound(RULES[rule](candidates), candidates)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("statistic", [kendall_tau, spearman, weighted_tau, top_order])
def test_agreement_is_defined_or_has_a_reason_and_stays_in_its_range(statistic, shape):
    for seed in range(3):
        table = random_table(np.random.default_rng(seed), *shape)
        agreement = statistic(
            table.reward(table.first, 1.0), table.reward(table.second), table.groups.distinct
        )
        np.testing.assert_array_equal(np.isnan(agreement.values), ~agreement.defined)
        assert (np.abs(agreement.values[agreement.defined]) <= 1).all()
        assert (agreement.members[agreement.defined] >= 2).all()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), prompts=st.integers(1, 40), largest=st.integers(1, 16))
def test_consistency_of_any_table_is_finite_and_counted(seed, prompts, largest):
    rng = np.random.default_rng(seed)
    table = random_table(rng, prompts, largest)
    rates = consistency_rates(
        kendall_tau(table.reward(table.first), table.reward(table.second), table.groups.distinct)
    )
    summary = summarise(rates, rng, num_resamples=20)

    assert summary.prompts.total == prompts
    assert summary.prompts.parts["defined"] == rates.defined.sum()
    if rates.defined.any():
        shrunken = shrunken_level(rates, null_variance(rates.members))
        assert ((shrunken >= 0) & (shrunken <= 1)).all()


@pytest.mark.parametrize("rule", ["best_worst", "all_pairs", "top_bottom", "min_gap"])
def test_pairs_do_not_depend_on_the_order_of_completions_or_prompts(rule):
    """Compared by content (prompt, token hashes): ties are broken by hash, never by position."""
    rng = np.random.default_rng(5)
    table = random_table(rng, 200, 8)
    order = rng.permutation(200)
    moved, _ = table.reorder(order, rng)

    def content(t: Table, names: np.ndarray) -> set[tuple[int, int, int]]:
        pairs, hashes = RULES[rule](choose_from(t, noise=1.0)), t.groups.ids_hash
        chosen, rejected = hashes[pairs.prompt, pairs.chosen], hashes[pairs.prompt, pairs.rejected]
        columns = (names[pairs.prompt].tolist(), chosen.tolist(), rejected.tolist())
        return set(zip(*columns, strict=True))

    before, after = content(table, np.arange(200)), content(moved, order)
    assert before == after
    assert len(before) > 50


def test_majority_vote_on_random_tables_is_sound():
    for seed in range(5):
        table = random_table(np.random.default_rng(seed), 300, 8)
        answers = np.nan_to_num(table.reward(table.first).values, nan=-1.0).astype(np.int64)
        candidates = keep_truncated(table.groups, vote_share(np.abs(answers) - 1, table.groups))
        assert_sound(majority_vote(candidates, min_share=0.3), candidates)


@pytest.mark.slow
def test_a_hundred_thousand_prompts_of_eight_are_decided_within_five_seconds():
    rng = np.random.default_rng(0)
    rows = 800_000
    offsets, hashes = np.arange(100_001) * 8, rng.integers(-(2**62), 2**62, rows)
    num_tokens = rng.integers(3, 200, rows)
    columns = rng.normal(size=(3, rows))
    start = time.perf_counter()
    groups = group_rows(offsets, hashes)
    lengths = pad_counts(num_tokens, groups)
    seed, previous, policy = (
        likelihood(pad(column, groups), lengths, noise_floor=1e-5) for column in columns
    )
    reward = difference(policy, seed)
    tau = kendall_tau(reward, difference(previous, seed), groups.distinct)
    summary = summarise(consistency_rates(tau), rng)
    pairs = best_worst(keep_truncated(groups, reward))
    elapsed = time.perf_counter() - start

    assert summary.prompts.total == pairs.tally.total == 100_000
    assert elapsed < 5.0
