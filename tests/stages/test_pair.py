"""Pairs and their C from matrices small enough to decide by hand.

Unless said otherwise M0 is 0 everywhere, so the implicit reward of a model is its log-probability.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from cream.algorithms.statistics import Interval
from cream.errors import DataError
from cream.recipe.methods.cream import CreamMethod
from cream.recipe.methods.judged import OracleMethod
from cream.recipe.methods.srlm import SrlmMethod
from cream.recipe.pairing import Penalise
from cream.recipe.parts import AnyQuantity, BestWorst, LogpQuantity, ScoreQuantity
from cream.stages.layout import Layout
from cream.stages.pair import PairingResult, pair
from cream.types import ScoreMatrix

KEEP = BestWorst(truncated="keep")

Group = tuple[str, Mapping[str, Sequence[float]]]
"""A prompt id and its columns."""


def matrix(
    *groups: Group,
    noise: float = 0.0,
    num_tokens: int = 4,
) -> ScoreMatrix:
    """One group per prompt: its id and its columns.

    ``M0``, ``M1``, ``M2`` are log-probabilities (0 if left out), ``hash`` and ``cut`` are optional,
    every other column is a score.
    """
    sizes = [max(len(column) for column in columns.values()) for _, columns in groups]

    def flat(name: str, default: float) -> np.ndarray:
        parts = [
            columns.get(name, [default] * size)
            for (_, columns), size in zip(groups, sizes, strict=True)
        ]
        return np.concatenate([np.asarray(part, dtype=np.float64) for part in parts])

    unlike = np.concatenate([np.arange(size) for size in sizes])
    hashes = flat("hash", np.nan)
    names = {name for _, columns in groups for name in columns} - {"M0", "M1", "M2", "hash", "cut"}
    return ScoreMatrix(
        prompt_ids=np.array([name for name, _ in groups], dtype=object),
        group_offsets=np.cumsum([0, *sizes]).astype(np.int64),
        completion_ids=np.array(
            [
                f"{name}-{k}"
                for (name, _), size in zip(groups, sizes, strict=True)
                for k in range(size)
            ],
            dtype=object,
        ),
        num_tokens=np.full(sum(sizes), num_tokens, dtype=np.int32),
        truncated=flat("cut", 0).astype(bool),
        ids_hash=np.where(np.isnan(hashes), unlike, np.nan_to_num(hashes)).astype(np.int64),
        logps={name: flat(name, 0.0) for name in ("M0", "M1", "M2")},
        noise={"M0": 0.0, "M1": noise, "M2": noise},
        scores={name: flat(name, np.nan) for name in names},
    )


AGREE = ("a", {"M2": [4, 3, 2, 1], "M1": [40, 30, 20, 10]})  # tau 1
MOSTLY = ("b", {"M2": [1, 2, 3], "M1": [1, 3, 2]})  # tau 1/3, rho 1/2, TopOrder 1/2
REVERSED = ("c", {"M2": [3, 1, 2], "M1": [1, 3, 2]})  # tau -1, TopOrder 0
SINGLE = ("d", {"M2": [1], "M1": [1]})
COPIES = ("e", {"M2": [1, 1], "M1": [1, 1], "hash": [7, 7]})
TIED = ("f", {"M2": [2, 2], "M1": [1, 2]})
ALL = (AGREE, MOSTLY, REVERSED, SINGLE, COPIES, TIED)


def decide(scores: ScoreMatrix, method, *, t: int = 2, report: bool = True) -> PairingResult:
    generator = np.random.default_rng(0)
    return pair(scores, method.parts(t), generator=generator, report_consistency=report)


def triples(result: PairingResult) -> list[tuple[str, str, float]]:
    pairs = result.pairs
    return list(
        zip(
            pairs.chosen_ids.tolist(),
            pairs.rejected_ids.tolist(),
            pairs.consistency.round(12).tolist(),
            strict=True,
        )
    )


def counts(result: PairingResult) -> dict[str, int]:
    return {name: n for name, n in result.tally.parts.items() if n}


# --- cream ---


def test_set_level_gives_every_pair_the_mean_c():
    """C = (1 + 2/3 + 0) / 3 = 5/9 over the three prompts where it is defined."""
    result = decide(matrix(*ALL), CreamMethod())

    c = round(5 / 9, 12)
    assert triples(result) == [("a-0", "a-3", c), ("b-2", "b-0", c), ("c-0", "c-1", c)]
    assert result.pairs.prompt_ids.tolist() == ["a", "b", "c"]
    assert result.pairs.chosen_reward.tolist() == [4.0, 3.0, 3.0]
    assert result.pairs.rejected_reward.tolist() == [1.0, 1.0, 1.0]


def test_every_prompt_is_accounted_for():
    result = decide(matrix(*ALL), CreamMethod())
    prompts = result.prompts

    assert counts(result) == {"paired": 3, "single": 1, "all_duplicates": 1, "tied": 1}
    assert result.tally.total == 6
    assert prompts.prompt_ids.tolist() == list("abcdef")
    assert prompts.outcome.tolist() == [
        "paired",
        "paired",
        "paired",
        "single",
        "all_duplicates",
        "tied",
    ]
    assert prompts.num_completions.tolist() == [4, 3, 3, 1, 2, 2]
    assert prompts.num_distinct.tolist() == [4, 3, 3, 1, 1, 2]
    assert prompts.definedness.tolist() == ["defined"] * 3 + ["single", "single", "first_tied"]
    np.testing.assert_allclose(prompts.correlation, [1, 1 / 3, -1, np.nan, np.nan, np.nan])


def test_the_reported_c_is_that_of_the_set_and_counts_the_undefined():
    summary = decide(matrix(*ALL), CreamMethod(level="sample")).consistency

    assert summary is not None
    assert isinstance(summary.rate, Interval)
    assert summary.rate.estimate == pytest.approx(5 / 9)
    assert summary.rate.num_items == 3
    assert summary.tau_mean == pytest.approx(1 / 9)
    assert {k: n for k, n in summary.prompts.parts.items() if n} == {
        "defined": 3,
        "single": 2,
        "first_tied": 1,
    }


@pytest.mark.parametrize(
    ("below_half", "expected"),
    [
        ("floor", [1.0, round(2 / 3, 12), 0.5]),
        ("allow", [1.0, round(2 / 3, 12), 0.0]),
        ("drop", [1.0, round(2 / 3, 12)]),
    ],
)
def test_sample_level_gives_every_prompt_its_own_c(below_half, expected: list[float]):
    result = decide(matrix(*ALL), CreamMethod(level="sample", below_half=below_half))

    assert [c for _, _, c in triples(result)] == expected
    assert result.tally.total == sum(result.tally.parts.values()) == 6
    assert result.tally.parts["paired"] == len(expected)
    assert result.tally.parts["below_half"] == 3 - len(expected)
    assert result.prompts.outcome[2] == ("below_half" if below_half == "drop" else "paired")


def test_c_stays_with_its_pair_when_an_earlier_one_is_dropped():
    result = decide(matrix(REVERSED, MOSTLY, AGREE), CreamMethod(level="sample", below_half="drop"))

    assert triples(result) == [("b-2", "b-0", round(2 / 3, 12)), ("a-0", "a-3", 1.0)]
    assert result.prompts.outcome.tolist() == ["below_half", "paired", "paired"]


@pytest.mark.parametrize(
    ("below_half", "expected"),
    [("floor", [("c-0", "c-1", 0.5)]), ("allow", [("c-0", "c-1", 0.0)]), ("drop", [])],
)
def test_a_set_below_one_half_follows_the_same_policy(below_half, expected):
    result = decide(matrix(REVERSED, TIED), CreamMethod(below_half=below_half))

    assert triples(result) == expected
    assert result.consistency is not None
    assert isinstance(result.consistency.rate, Interval)
    assert result.consistency.rate.estimate == 0.0  # what is reported is never floored
    assert result.tally.parts["tied"] == 1
    assert result.tally.parts["below_half"] == (1 if below_half == "drop" else 0)


def test_a_prompt_without_a_c_of_its_own_takes_that_of_the_set():
    """M1 is tied in the second prompt: no tau there, but M2 orders it well."""
    undecided = ("u", {"M2": [1, 5], "M1": [3, 3]})
    result = decide(matrix(MOSTLY, undecided), CreamMethod(level="sample"))

    assert triples(result) == [
        ("b-2", "b-0", round(2 / 3, 12)),
        ("u-1", "u-0", round(2 / 3, 12)),
    ]
    assert result.prompts.definedness.tolist() == ["defined", "second_tied"]


@pytest.mark.parametrize(
    ("statistic", "expected"),
    [
        ("kendall", (1 + 2 / 3 + 0) / 3),
        ("spearman", (1 + 0.75 + 0) / 3),
        # b by the ranks of M2: pairs weigh 1/1+1/2, 1/1+1/3, 1/2+1/3; the top two are exchanged.
        ("weighted_tau", (1 + (1 + (-3 / 2 + 4 / 3 + 5 / 6) / (11 / 3)) / 2 + 0) / 3),
        ("top_order", (1 + 0.5 + 0) / 3),
    ],
)
def test_each_statistic_becomes_a_rate_and_top_order_is_one_already(statistic, expected: float):
    """TopOrder passed through (x + 1) / 2 would give 0.75 here."""
    result = decide(matrix(AGREE, MOSTLY, REVERSED), CreamMethod(statistic=statistic))

    np.testing.assert_allclose(result.pairs.consistency, [max(expected, 0.5)] * 3, rtol=1e-12)
    assert result.consistency is not None
    assert isinstance(result.consistency.rate, Interval)
    assert result.consistency.rate.estimate == pytest.approx(expected)


def test_the_first_iteration_pairs_by_the_ratio_and_compares_mean_likelihoods():
    """M1 - M0 orders 0 > 1 > 2; M1 alone orders 2 > 1 > 0, and so does M0: C = 1."""
    scores = matrix(("a", {"M0": [-9, -6, -3], "M1": [-3, -2, -1]}))
    result = decide(scores, CreamMethod(), t=1)

    assert triples(result) == [("a-0", "a-2", 1.0)]
    assert result.pairs.chosen_reward.tolist() == [6.0]
    reference = decide(scores, CreamMethod(compare="reference_code", below_half="allow"), t=1)
    assert triples(reference) == [("a-0", "a-2", 0.0)]


def test_per_token_rewards_divide_by_length():
    scores = matrix(("a", {"M2": [-4, -6], "M1": [-4, -6]}))
    scores.num_tokens[:] = [2, 6]

    assert triples(decide(scores, CreamMethod())) == [("a-0", "a-1", 1.0)]
    per_token = decide(scores, CreamMethod(reward="implicit_per_token"))
    assert triples(per_token) == [("a-1", "a-0", 1.0)]
    assert per_token.pairs.chosen_reward.tolist() == [-1.0]


def test_copies_are_evidence_once():
    """Distinct: 0, 2, 3; of their three orders two agree. Counted, the copy would add agreement."""
    columns = {"M2": [3, 3, 1, 2], "M1": [3, 3, 2, 1], "hash": [5, 5, 6, 7]}
    result = decide(matrix(("a", columns)), CreamMethod())

    assert triples(result) == [("a-0", "a-2", round(2 / 3, 12))]
    assert result.prompts.num_distinct.tolist() == [3]


@pytest.mark.parametrize(("gap", "outcome"), [(0.9, "tied"), (1.1, "paired")])
def test_a_gap_within_the_noise_of_scoring_is_a_tie(gap: float, outcome: str):
    """A floor of 0.5 nats per sqrt(token) is 1 nat on 4 tokens."""
    scores = matrix(("a", {"M2": [0, gap], "M1": [0, 5]}), noise=0.5)

    assert decide(scores, SrlmMethod()).prompts.outcome.tolist() == [outcome]


def test_a_gap_above_the_noise_may_still_be_too_small_for_the_recipe():
    scores = matrix(("a", {"M2": [0, 2], "M1": [0, 1]}))

    for min_gap, outcome in ((2.0, "paired"), (2.5, "below_min_gap")):
        result = decide(scores, SrlmMethod(pairing=BestWorst(min_gap=min_gap)))
        assert result.prompts.outcome.tolist() == [outcome]
        assert counts(result) == {outcome: 1}


def test_truncated_completions_are_left_out_or_kept_as_the_recipe_says():
    scores = matrix(
        ("a", {"M2": [5, 3, 1], "M1": [5, 3, 1], "cut": [1, 0, 0]}),
        ("b", {"M2": [5, 3], "M1": [5, 3], "cut": [1, 0]}),
    )

    dropped = decide(scores, CreamMethod())
    assert triples(dropped) == [("a-1", "a-2", 1.0)]
    assert counts(dropped) == {"paired": 1, "truncated": 1}
    kept = decide(scores, CreamMethod(pairing=KEEP))
    assert triples(kept) == [("a-0", "a-2", 1.0), ("b-0", "b-1", 1.0)]


def test_c_is_measured_on_the_completions_that_may_be_paired():
    """Of three whole completions all orders agree; the truncated one would disagree with each."""
    scores = matrix(("a", {"M2": [9, 3, 2, 1], "M1": [0, 3, 2, 1], "cut": [1, 0, 0, 0]}))

    assert triples(decide(scores, CreamMethod())) == [("a-1", "a-3", 1.0)]
    assert triples(decide(scores, CreamMethod(pairing=KEEP))) == [("a-0", "a-3", 0.5)]


def test_pairs_without_any_c_are_an_error_for_cream():
    scores = matrix(("u", {"M2": [1, 5], "M1": [3, 3]}))

    with pytest.raises(DataError, match="no prompt has a consistency rate"):
        decide(scores, CreamMethod())
    assert triples(decide(scores, SrlmMethod())) == [("u-1", "u-0", 1.0)]


def test_no_pairs_are_an_empty_table_with_reasons():
    result = decide(matrix(SINGLE, COPIES), CreamMethod())

    assert len(result.pairs) == 0
    assert counts(result) == {"single": 1, "all_duplicates": 1}


def test_the_order_of_completions_and_prompts_does_not_matter():
    first = decide(matrix(*ALL), CreamMethod(level="sample", below_half="allow"))
    turned = [
        (name, {key: list(column)[::-1] for key, column in columns.items()})
        for name, columns in reversed(ALL)
    ]
    second = decide(matrix(*turned), CreamMethod(level="sample", below_half="allow"))

    size = {name: len(columns["M2"]) for name, columns in ALL}

    def original(key: str) -> str:
        name, place = key.split("-")
        return f"{name}-{size[name] - 1 - int(place)}"

    back = [(original(c), original(r), value) for c, r, value in triples(second)]
    assert sorted(back) == sorted(triples(first))


# --- srlm and oracle ---


def test_srlm_makes_the_same_pairs_trusts_them_fully_and_reports_c():
    cream, srlm = decide(matrix(*ALL), CreamMethod()), decide(matrix(*ALL), SrlmMethod())

    assert [t[:2] for t in triples(srlm)] == [t[:2] for t in triples(cream)]
    assert srlm.pairs.consistency.tolist() == [1.0, 1.0, 1.0]
    assert srlm.consistency == cream.consistency


def test_what_is_not_reported_is_not_read_either():
    """Without M1 srlm still pairs, unless it has to report."""
    scores = matrix(*ALL)
    del scores.logps["M1"]  # type: ignore[attr-defined]
    result = decide(scores, SrlmMethod(), report=False)

    assert len(result.pairs) == 3
    assert result.consistency is None
    assert np.isnan(result.prompts.correlation).all()
    assert set(result.prompts.definedness) == {""}
    with pytest.raises(KeyError, match="M1"):
        decide(scores, SrlmMethod())


@pytest.mark.parametrize(
    ("method", "column"), [(CreamMethod(), "M2"), (OracleMethod(), "verifier")]
)
def test_a_column_that_is_not_there_is_an_error_that_names_it(method, column: str):
    scores = matrix(AGREE)
    if column == "M2":
        del scores.logps["M2"]  # type: ignore[attr-defined]

    with pytest.raises(KeyError, match=column):
        decide(scores, method)


def test_the_oracle_pairs_right_with_wrong_and_breaks_ties_by_its_own_ranking():
    """Right: 0 and 2, of which M2 prefers 2; wrong: 1 and 3, of which it likes 3 least."""
    scores = matrix(
        ("a", {"M2": [1, 5, 2, 4], "M1": [1, 5, 2, 4], "verifier": [1, 0, 1, 0]}),
        ("b", {"M2": [1, 5], "M1": [1, 5], "verifier": [1, 1]}),
        ("c", {"M2": [1, 5], "M1": [1, 5], "verifier": [np.nan, np.nan]}),
        ("d", {"M2": [1, 5, 9], "M1": [1, 5, 9], "verifier": [1, 0, np.nan]}),
    )
    result = decide(scores, OracleMethod())

    assert triples(result) == [("a-2", "a-3", 1.0), ("d-0", "d-1", 1.0)]
    assert result.prompts.outcome.tolist() == ["paired", "tied", "unscored", "paired"]
    assert result.pairs.chosen_reward.tolist() == [1.0, 1.0]
    assert result.consistency is not None  # of the tie-break quantity: M2 and M1 agree
    assert isinstance(result.consistency.rate, Interval)
    assert result.consistency.rate.estimate == 1.0


def test_the_interval_of_c_depends_on_the_generator_given_and_nothing_else():
    scores = matrix(*ALL)
    parts = CreamMethod().parts(2)
    first, again, other = (
        pair(scores, parts, generator=np.random.default_rng(seed)).consistency for seed in (1, 1, 2)
    )

    assert first == again
    assert first is not None
    assert other is not None
    assert first.share_below_half == other.share_below_half


# --- truncated completions that pay a penalty ---

CUT_OFF = ("a", {"M2": [4, 3, 2, 1], "M1": [0, 3, 2, 1], "cut": [1, 0, 0, 0]})


def penalised(penalty: float) -> BestWorst:
    return BestWorst(truncated=Penalise(penalty=penalty))


@pytest.mark.parametrize(
    ("rule", "rate", "ends"),
    [(KEEP, 0.5, ("a-0", "a-3")), (penalised(10.0), 1.0, ("a-1", "a-0"))],
)
def test_c_is_that_of_the_rewards_that_pick_the_pairs(rule: BestWorst, rate: float, ends):
    """M2 puts the truncated completion first, M1 last: 3 of 6 pairs are ordered alike, C 1/2.

    With 10 nats less in both, both put it last, and order all others alike: C 1. The pair is made
    of the same values.
    """
    result = decide(matrix(CUT_OFF), CreamMethod(pairing=rule))

    assert result.consistency is not None
    assert isinstance(result.consistency.rate, Interval)
    assert result.consistency.rate.estimate == rate
    assert (result.pairs.chosen_ids[0], result.pairs.rejected_ids[0]) == ends


def test_a_penalty_is_in_the_unit_of_the_reward_that_picks_the_pairs():
    """6 nats of a completion of 4 tokens are 1.5 a token; 6 a token are 24. A score pays nothing
    beside a log-probability, and its own penalty where it picks the pairs."""
    table = matrix(("a", {"M1": [-4, -8], "judge": [3, 2], "cut": [1, 0]}))
    summed = LogpQuantity(unit="likelihood", model="M1")
    mean = LogpQuantity(unit="mean_likelihood", model="M1")
    judge = ScoreQuantity(column="judge")

    def values(picks: AnyQuantity, asked: AnyQuantity) -> list[float]:
        return Layout(table, penalised(6.0), picks).quantity(asked).values[0].tolist()

    assert values(summed, summed) == [-10, -8]
    assert values(summed, mean) == [-2.5, -2]
    assert values(mean, mean) == [-7, -2]
    assert values(mean, summed) == [-28, -8]
    assert values(summed, judge) == values(mean, judge) == [3, 2]
    assert values(judge, judge) == [-3, 2]
    assert values(judge, summed) == [-4, -8]
