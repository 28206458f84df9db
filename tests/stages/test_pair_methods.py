"""Quantities, levels, rules and filters beyond the paper's main method, decided by hand."""

from dataclasses import replace

import numpy as np
import pytest
from pydantic import ValidationError
from test_pair import AGREE, ALL, MOSTLY, REVERSED, counts, decide, matrix, triples

from cream.algorithms.statistics import Interval
from cream.errors import DataError, RecipeError
from cream.recipe.methods.confidence import SpaMethod
from cream.recipe.methods.cream import (
    CreamMethod,
    CreamPairMethod,
    CreamReferenceMethod,
    CreamSampleMethod,
)
from cream.recipe.methods.judged import OracleMethod
from cream.recipe.methods.length import DiceMethod
from cream.recipe.methods.srlm import FixedSmoothingMethod, SrlmMethod
from cream.recipe.methods.votes import ScpoMethod
from cream.recipe.pairing import AllPairs, BestRandom, BestWorst, MajorityVote, Penalise, TopBottom
from cream.recipe.parts import MeanMinusStds, MethodParts
from cream.recipe.witness import EarlierModels, NamedModel, VoteWitness


def with_answers(scores, answers):
    return replace(scores, labels={"extracted": np.array(answers, dtype=np.int64)})


# --- quantities ---


def test_dice_prices_tokens_until_chosen_and_rejected_are_equally_long():
    """The longer one (4 tokens against 1) wins by 1 nat in a and by 6 in b.

    Its lead is lost at alpha = 1/3 and at alpha = 2, so between them the gaps are -3 and +3.
    """
    scores = matrix(("a", {"M2": [4, 3], "M1": [4, 3]}), ("b", {"M2": [9, 3], "M1": [9, 3]}))
    scores.num_tokens[:] = [4, 1, 4, 1]

    result = decide(scores, DiceMethod())

    assert result.length_alpha is not None
    assert 1 / 3 < result.length_alpha < 2
    assert [t[:2] for t in triples(result)] == [("a-1", "a-0"), ("b-0", "b-1")]
    assert result.pairs.chosen_reward[0] == pytest.approx(3 - result.length_alpha)
    assert decide(scores, SrlmMethod()).length_alpha is None


@pytest.mark.parametrize(
    ("combine", "expected"),
    [
        ("mean", 1.0),  # 5, 3, -1: the order of M2
        ("min", 2 / 3),  # 1, 2, -5: one of three orders differs
        (MeanMinusStds(num_stds=0.25), 1.0),  # 4, 2.75, -2
        (MeanMinusStds(num_stds=2.0), 2 / 3),  # -3, 1, -9
    ],
)
def test_earlier_models_are_one_witness_together(combine, expected: float):
    scores = matrix(("a", {"M2": [3, 2, 1], "M1": [1, 2, 3], "M0": [9, 4, -5]}))
    method = CreamMethod(reward="likelihood", witness=EarlierModels(combine=combine))

    assert triples(decide(scores, method)) == [("a-0", "a-2", round(expected, 12))]


def test_a_named_model_can_be_the_witness_instead_of_the_previous_one():
    scores = matrix(("a", {"M2": [3, 2, 1], "M1": [1, 2, 3], "M0": [3, 2, 1]}))

    def c(witness):
        method = CreamMethod(reward="likelihood", witness=witness, below_half="allow")
        return decide(scores, method).pairs.consistency.tolist()

    assert c(NamedModel(model="M0")) == [1.0]
    assert c(NamedModel(model="M1")) == [0.0]


def test_scpo_pairs_most_against_least_votes_and_weighs_by_the_margin():
    """a: answers 7, 7, 7, 9 of four (one copy): 3/4 against 1/4. b: 1, 2, none: no majority."""
    scores = with_answers(
        matrix(
            ("a", {"M2": [1, 1, 5, 9], "hash": [4, 4, 5, 6]}),
            ("b", {"M2": [1, 2, 3]}),
            ("c", {"M2": [1, 2]}),
        ),
        [7, 7, 7, 9, 1, 2, -1, 3, 3],
    )
    result = decide(scores, ScpoMethod(tie_break="likelihood"))

    assert triples(result) == [("a-2", "a-3", 1.0)]
    assert result.pairs.weight.tolist() == [0.5]
    assert result.pairs.chosen_reward.tolist() == [0.75]
    assert result.prompts.outcome.tolist() == ["paired", "tied", "tied"]
    strict = ScpoMethod(pairing=MajorityVote(min_share=0.8))
    assert counts(decide(scores, strict)) == {"no_majority": 1, "tied": 2}


def test_votes_can_be_the_witness():
    """Votes 2/3, 2/3, 1/3: M2 puts the loner first: tau-b = -2 / sqrt(3 * 2)."""
    scores = with_answers(matrix(("a", {"M2": [1, 2, 3]})), [4, 4, 5])
    method = CreamMethod(witness=VoteWitness(), below_half="allow")

    assert triples(decide(scores, method)) == [("a-2", "a-0", round((1 - 2 / 6**0.5) / 2, 12))]


def test_pairs_weigh_one_unless_the_method_says_otherwise():
    assert decide(matrix(*ALL), CreamMethod()).pairs.weight.tolist() == [1.0, 1.0, 1.0]


# --- levels ---


def test_the_shrunken_level_keeps_the_spread_that_is_more_than_chance():
    """C_j = 1, 2/3, 0 of 4, 3 and 3 completions, and v_j = (2n + 5) / (18 n (n - 1))."""
    rates, n = np.array([1, 2 / 3, 0]), np.array([4, 3, 3])
    noise = (2 * n + 5) / (18 * n * (n - 1))
    between = rates.var(ddof=1) - noise.mean()
    expected = rates.mean() + between / (between + noise) * (rates - rates.mean())
    method = CreamSampleMethod(level="shrunken", below_half="allow")

    result = decide(matrix(*ALL), method)

    assert between > 0
    np.testing.assert_allclose(result.pairs.consistency, expected, rtol=1e-12)
    same = decide(matrix(*ALL), CreamMethod(level="shrunken", below_half="allow"))
    assert triples(result) == triples(same)


def test_the_sample_method_is_cream_at_the_sample_level():
    scores = matrix(*ALL)

    assert triples(decide(scores, CreamSampleMethod())) == triples(
        decide(scores, CreamMethod(level="sample"))
    )


def test_the_pair_level_is_what_two_gaussian_raters_do():
    """One group of five with three of ten orders exchanged: tau = 0.4.

    Simulated: rater 2 = rho rater 1 + sqrt(1 - rho^2) noise with rho = sin(pi tau / 2), and the
    share of groups whose best and worst rater 2 orders alike. 0.005 is seven standard errors.
    """
    scores = matrix(("a", {"M2": [5, 4, 3, 2, 1], "M1": [2, 5, 4, 3, 1]}))
    rho = np.sin(np.pi * 0.4 / 2)
    rng = np.random.default_rng(0)
    first = rng.standard_normal((200_000, 5))
    second = rho * first + np.sqrt(1 - rho**2) * rng.standard_normal(first.shape)
    rows = np.arange(len(first))
    agree = second[rows, first.argmax(1)] > second[rows, first.argmin(1)]

    (c,) = decide(scores, CreamPairMethod()).pairs.consistency

    assert c == pytest.approx(agree.mean(), abs=0.005)
    assert decide(scores, CreamMethod()).pairs.consistency.tolist() == pytest.approx([0.7])


# --- the filter ---


def test_the_filter_keeps_pairs_that_the_witness_orders_alike_and_counts_the_others():
    """c: M1 puts the chosen last; f: M2 and M1 exchanged, so that M1 is tied on the pair."""
    silent = ("f", {"M2": [1, 2], "M1": [2, 2]})
    result = decide(matrix(AGREE, MOSTLY, REVERSED, silent), CreamMethod(filter="agreeing"))

    assert [t[:2] for t in triples(result)] == [("a-0", "a-3"), ("b-2", "b-0")]
    assert result.prompts.outcome.tolist() == [
        "paired",
        "paired",
        "witness_disagrees",
        "witness_silent",
    ]
    assert dict(result.pair_tally.parts) == {
        "kept": 2,
        "below_half": 0,
        "witness_silent": 1,
        "witness_disagrees": 1,
    }
    assert result.tally.parts["paired"] == 2
    assert (
        result.consistency
        == decide(matrix(AGREE, MOSTLY, REVERSED, silent), CreamMethod()).consistency
    )


def equally_good(num_prompts=600, size=8):
    """M0 and M1 see one quality with an error of their own, rho = 1 / 1.23: C = 0.80."""
    rng = np.random.default_rng(12)
    quality = rng.standard_normal((num_prompts, size))
    m0, m1 = (quality + np.sqrt(0.23) * rng.standard_normal(quality.shape) for _ in range(2))
    return matrix(*((f"p{i}", {"M0": m0[i], "M1": m1[i]}) for i in range(num_prompts)))


@pytest.mark.parametrize(
    "method", [CreamPairMethod(), CreamSampleMethod(filter="agreeing")], ids=lambda m: m.name
)
def test_where_m0_is_the_witness_it_is_asked_about_pairs_of_the_compared_ranking(method):
    """The pair of extremes of M1's likelihood, not of log pi_1 - log pi_0, which share no order.

    By log-ratios M0 would agree on 29 % of the pairs; by likelihoods two such raters agree on best
    and worst of eight with probability 0.99 (`best_worst_agreement` at tau = 0.6 gives 0.988).
    """
    scores = equally_good()
    result = decide(scores, method, t=1)

    assert result.consistency is not None
    assert isinstance(result.consistency.rate, Interval)
    assert result.consistency.rate.estimate == pytest.approx(0.80, abs=0.01)
    kept = result.pair_tally.parts["kept"] / result.pair_tally.total
    assert kept == pytest.approx(0.988, abs=0.012)
    m1 = scores.logps["M1"].reshape(-1, 8)
    best = {f"p{i}-{m1[i].argmax()}" for i in range(len(m1))}
    assert set(result.pairs.chosen_ids) <= best
    if isinstance(method, CreamPairMethod):
        assert result.pairs.consistency.mean() == pytest.approx(kept, abs=0.012)


def test_log_ratio_pairs_and_m0s_likelihood_are_refused_as_two_sides_of_one_filter():
    for method in (CreamPairMethod, CreamMethod):
        with pytest.raises(RecipeError, match="opposite signs"):
            method(compare="reference_code", filter="agreeing").parts(1)
    with pytest.raises(RecipeError, match="opposite signs"):  # the pair level, unfiltered
        CreamPairMethod(compare="reference_code", filter="none").parts(1)
    assert CreamPairMethod(compare="reference_code", witness=VoteWitness()).parts(1)
    assert CreamPairMethod(compare="reference_code").parts(2)


def test_parts_composed_by_hand_ask_about_the_ranking_that_picks_the_pairs():
    good = CreamPairMethod().parts(1)
    other = {"kind": "logp", "unit": "implicit", "model": "M1"}

    with pytest.raises(ValidationError, match="speak of the ranking that picks the pairs"):
        MethodParts.model_validate({**good.model_dump(), "reward": other})


def test_a_prompt_that_keeps_one_of_its_pairs_is_paired():
    scores = matrix(("a", {"M2": [3, 2, 1], "M1": [1, 3, 2]}))  # M1: 1 > 2 > 0
    result = decide(scores, CreamMethod(pairing=AllPairs(), filter="agreeing"))

    assert [t[:2] for t in triples(result)] == [("a-1", "a-2")]
    assert counts(result) == {"paired": 1}
    assert result.pair_tally.parts["witness_disagrees"] == 2


# --- rules ---


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (BestWorst(), {(0, 3)}),
        (AllPairs(), {(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)}),
        (AllPairs(min_gap=2), {(0, 2), (0, 3), (1, 3)}),
        (TopBottom(k=2), {(0, 2), (0, 3), (1, 2), (1, 3)}),
    ],
)
def test_every_rule_can_be_named(rule, expected):
    result = decide(matrix(("p", {"M2": [4, 3, 2, 1]})), SrlmMethod(pairing=rule))

    assert {(int(c[-1]), int(r[-1])) for c, r, _ in triples(result)} == expected
    assert result.pair_tally.total == len(expected)


def test_best_random_draws_the_rejected_from_the_generator_given():
    scores = matrix(*[(f"p{i}", {"M2": [4, 3, 2, 1]}) for i in range(40)])
    pairs = triples(decide(scores, SrlmMethod(pairing=BestRandom())))

    assert {c[-1] for c, _, _ in pairs} == {"0"}
    assert {r[-1] for _, r, _ in pairs} == {"1", "2", "3"}
    assert pairs == triples(decide(scores, SrlmMethod(pairing=BestRandom())))


def test_truncated_completions_can_be_penalised_instead_of_dropped():
    """Completion 0 is cut: 5 nats, 3 after a penalty of 2, -1 after one of 6."""
    scores = matrix(("a", {"M2": [5, 4, 1], "M1": [5, 4, 1], "cut": [1, 0, 0]}))

    def pairs(penalty: float):
        rule = BestWorst(truncated=Penalise(penalty=penalty))
        return decide(scores, SrlmMethod(pairing=rule)).pairs

    assert (pairs(2).chosen_ids.tolist(), pairs(2).rejected_ids.tolist()) == (["a-1"], ["a-2"])
    assert pairs(6).rejected_ids.tolist() == ["a-0"]
    assert pairs(6).rejected_reward.tolist() == [-1.0]


# --- the reference code's rules ---


def test_equal_values_rank_by_position_and_copies_count():
    """Ordinal ranks: J 2 > 1 > 0, K 1 > 0 > 2, one of three orders alike; tau-b sees only two."""
    scores = matrix(("a", {"M2": [1, 1, 2], "M1": [5, 5, 3]}))
    assert decide(scores, CreamReferenceMethod()).pairs.consistency.tolist() == pytest.approx(
        [1 / 3]
    )
    assert decide(scores, CreamMethod(below_half="allow")).pairs.consistency.tolist() == [0.0]
    copies = matrix(("a", {"M2": [1, 1, 2], "M1": [5, 5, 3], "hash": [4, 4, 6]}))
    assert decide(copies, CreamReferenceMethod()).pairs.consistency.tolist() == pytest.approx(
        [1 / 3]
    )


def test_the_reference_rules_use_c_below_half_and_pair_truncated_completions():
    scores = matrix(("a", {"M2": [3, 2, 1], "M1": [1, 2, 3], "cut": [1, 0, 0]}))
    result = decide(scores, CreamReferenceMethod())

    assert triples(result) == [("a-0", "a-2", 0.0)]


def test_the_first_iteration_of_the_reference_rules_shares_log_pi_0():
    scores = matrix(("a", {"M0": [-9, -6, -3], "M1": [-3, -2, -1]}))

    assert triples(decide(scores, CreamReferenceMethod(), t=1)) == [("a-0", "a-2", 0.0)]


def test_equal_best_and_worst_give_no_pair_under_the_reference_rules_either():
    scores = matrix(AGREE, ("f", {"M2": [2, 2], "M1": [1, 2]}))

    assert counts(decide(scores, CreamReferenceMethod())) == {"paired": 1, "tied": 1}


# --- smoothing without agreement ---


def test_spa_smooths_the_share_with_the_smallest_gaps():
    scores = matrix(*[(f"p{gap}", {"M2": [gap, 0]}) for gap in (8, 1, 4, 2)])
    result = decide(scores, SpaMethod(share=0.5, label_smoothing=0.2))

    assert result.pairs.consistency.tolist() == [1.0, 0.8, 1.0, 0.8]
    assert decide(scores, SpaMethod(share=0.2)).pairs.consistency.tolist() == [1.0] * 4


# --- every method ---

METHODS = [
    CreamMethod(),
    CreamMethod(level="shrunken", filter="agreeing", pairing=TopBottom(k=2)),
    CreamMethod(statistic="weighted_tau", witness=VoteWitness(), below_half="drop"),
    CreamSampleMethod(below_half="drop", pairing=AllPairs(min_gap=0.3)),
    CreamPairMethod(below_half="drop"),
    CreamReferenceMethod(level="sample"),
    SrlmMethod(pairing=BestRandom(truncated=Penalise(penalty=1.0))),
    FixedSmoothingMethod(consistency=0.8),
    DiceMethod(),
    ScpoMethod(pairing=MajorityVote(min_share=0.3)),
    SpaMethod(share=0.3),
    OracleMethod(),
]


def random_matrix(rng: np.random.Generator):
    groups = []
    for i in range(int(rng.integers(1, 12))):
        size = int(rng.integers(1, 9))
        columns = {name: rng.integers(-4, 3, size).astype(float) for name in ("M0", "M1", "M2")}
        for column in columns.values():
            column[rng.random(size) < 0.1] = np.nan
        columns["hash"] = rng.integers(0, 6, size)
        columns["cut"] = rng.random(size) < 0.2
        columns["verifier"] = np.where(rng.random(size) < 0.1, np.nan, rng.integers(0, 2, size))
        groups.append((f"p{i}", columns))
    scores = matrix(*groups, noise=float(rng.choice([0.0, 0.3])))
    return with_answers(scores, rng.integers(-1, 3, len(scores.completion_ids)))


@pytest.mark.parametrize("method", METHODS, ids=lambda m: m.name)
def test_any_matrix_gives_pairs_with_sound_numbers_or_a_reason(method):
    """Ties, copies, missing scores, groups of one: nothing but "no C anywhere" is an error."""
    rng = np.random.default_rng(7)
    pairs, refused = 0, []
    for _ in range(60):
        scores = random_matrix(rng)
        t = int(rng.integers(1, 3))
        try:
            result = decide(scores, method, t=t)
        except DataError as error:
            refused.append(str(error))
            continue
        table = result.pairs
        pairs += len(table)
        assert result.tally.total == len(scores.prompt_ids) == sum(result.tally.parts.values())
        assert result.pair_tally.parts["kept"] == len(table)
        assert len(set(table.prompt_ids.tolist())) == result.tally.parts["paired"]
        assert ((table.consistency >= 0) & (table.consistency <= 1)).all()
        assert (table.weight > 0).all()
        assert (table.chosen_reward > table.rejected_reward).all()
        assert (table.chosen_ids != table.rejected_ids).all()
    assert pairs > 20
    assert not [text for text in refused if "no prompt has a consistency rate" not in text]
