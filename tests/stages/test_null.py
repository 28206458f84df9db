"""What the pair stage says of a C beside it, on score matrices of models that are pure noise."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cream.errors import RecipeError
from cream.loop.pair_summary import summarise_pairs
from cream.recipe.columns import VERIFIER
from cream.recipe.methods.cream import CreamMethod, CreamPairMethod, CreamReferenceMethod
from cream.recipe.methods.length import DiceMethod
from cream.recipe.parts import Agreement, Ensemble, LengthRegularised, LogpQuantity, Votes
from cream.recipe.witness import EarlierModels, shared_terms
from cream.stages.null import CONSTANT, NOTHING_SHARED, TIED
from cream.stages.pair import pair
from cream.types import ScoreMatrix

PROMPTS, MEMBERS = 1_500, 5


def noise_matrix(prompts=PROMPTS, members=MEMBERS, seed=0):
    """Models M0 to M2 with nothing in common, and verdicts that have to do with none of them."""
    rng = np.random.default_rng(seed)
    rows = prompts * members
    return ScoreMatrix(
        prompt_ids=np.array([f"p{i}" for i in range(prompts)]),
        group_offsets=np.arange(0, rows + 1, members),
        completion_ids=np.array([f"c{i}" for i in range(rows)]),
        num_tokens=np.full(rows, 10, dtype=np.int32),
        truncated=np.zeros(rows, dtype=bool),
        ids_hash=np.arange(rows),
        logps={name: rng.normal(-30, 5, rows) for name in ("M0", "M1", "M2")},
        noise=dict.fromkeys(("M0", "M1", "M2"), 0.0),
        scores={VERIFIER: (rng.random(rows) < 0.5).astype(float)},
        labels={},
    )


def summary(method, t=2, matrix=None) -> Any:
    parts = method.parts(t)
    result = pair(matrix or noise_matrix(), parts, generator=np.random.default_rng(0))
    return summarise_pairs(parts, t, result, report=True, generator=np.random.default_rng(1))


def test_noise_stands_beside_its_null_and_its_residual_is_a_half():
    """Equal variances: 2/3. 1,500 prompts of 5: standard error of C 0.005."""
    found = summary(CreamMethod())
    c = found.consistency

    assert c.rate == pytest.approx(2 / 3, abs=0.015)
    assert (c.null.shared, c.null.n, c.null.pair_level) == ("M0", 100, None)
    assert c.null.estimate == pytest.approx(2 / 3, abs=0.01)
    assert c.null.gaussian == pytest.approx(2 / 3, abs=0.01)
    assert c.null.low < c.rate < c.null.high
    assert c.residual.low < 0.5 < c.residual.high
    assert (c.residual.n, c.residual.absent) == (PROMPTS, None)
    assert c.residual.first_slope == pytest.approx(1, abs=0.05)
    assert c.residual.second_slope == pytest.approx(1, abs=0.05)
    assert found.pair_accuracy.accuracy == pytest.approx(0.5, abs=0.06)


def test_the_statistic_residual_kendall_trains_noise_with_a_half():
    plain, residual = (summary(CreamMethod(statistic=s)) for s in ("kendall", "residual_kendall"))

    assert plain.consistency_in_loss == pytest.approx(2 / 3, abs=0.015)
    assert residual.consistency_in_loss == pytest.approx(0.5, abs=0.02)
    assert residual.consistency.rate == residual.consistency.residual.estimate
    assert residual.consistency.null.estimate == pytest.approx(0.5, abs=0.01)
    assert residual.consistency.null.gaussian is None


def test_the_partial_tau_of_noise_stands_beside_its_own_null():
    """Five completions: tau of a ninth in the limit, 0.12 here; some prompts are decided."""
    c = summary(CreamMethod(statistic="partial_kendall")).consistency

    assert c.undefined["shared_decides"] > 0
    assert c.tau_mean == pytest.approx(0.12, abs=0.03)
    assert c.rate == pytest.approx(c.null.estimate, abs=0.02)
    assert c.null.estimate > 0.54


def test_the_pair_level_has_the_null_of_best_against_worst():
    """tau 1/3 of five: 0.81 (Gaussian raters); without what is shared 1/2."""
    plain = summary(CreamPairMethod(filter="none"))
    residual = summary(CreamPairMethod(filter="none", statistic="residual_kendall"))

    assert plain.consistency.null.pair_level == pytest.approx(0.815, abs=0.015)
    assert plain.consistency_in_loss == pytest.approx(0.815, abs=0.03)
    assert residual.consistency_in_loss == pytest.approx(0.5, abs=0.06)


def test_where_nothing_is_shared_the_null_is_a_half_and_the_residual_says_why_it_is_absent():
    """t = 1 compares mean likelihoods of M1 and M0; both statistics are Kendall's there."""
    c = summary(CreamMethod(), t=1).consistency

    assert c.rate == pytest.approx(0.5, abs=0.02)
    assert (c.null.shared, c.null.estimate, c.null.low) == (None, 0.5, None)
    assert (c.residual.estimate, c.residual.absent) == (None, NOTHING_SHARED)
    for statistic in ("residual_kendall", "partial_kendall"):
        assert summary(CreamMethod(statistic=statistic), t=1).consistency.rate == c.rate


def test_top_order_has_a_null_of_its_own():
    """The same best and the same worst of five by chance, one half each: 1/5."""
    at_1 = summary(CreamMethod(statistic="top_order"), t=1).consistency
    at_2 = summary(CreamMethod(statistic="top_order")).consistency

    assert at_1.null.estimate == pytest.approx(0.2, abs=0.005)
    assert at_2.null.estimate == pytest.approx(at_2.rate, abs=0.02)
    assert at_2.null.estimate > 0.25


def test_the_reference_codes_comparison_has_a_null_below_a_half():
    """J = a - c and K = c: rho = -1 / sqrt(2), C = 1/2 - 1/4. Nothing of K is its own."""
    c = summary(CreamReferenceMethod(), t=1).consistency

    assert c.rate == pytest.approx(0.25, abs=0.015)
    assert (c.null.shared, c.residual.absent) == ("M0", TIED)
    assert c.null.estimate == pytest.approx(0.25, abs=0.01)
    gaussian = summary(CreamMethod(compare="reference_code"), t=1).consistency.null.gaussian
    assert gaussian == pytest.approx(0.25, abs=0.01)


@pytest.mark.parametrize("statistic", ["residual_kendall", "partial_kendall"])
def test_log_pi_0_is_not_taken_out_of_itself(statistic):
    method = CreamMethod(statistic=statistic, compare="reference_code")
    with pytest.raises(RecipeError, match="one of them is log pi_0"):
        method.parts(1)
    assert method.parts(2).agreement.statistic == statistic  # pyright: ignore


def test_a_constant_m0_leaves_nothing_to_take_out():
    matrix = noise_matrix()
    matrix.logps["M0"][:] = np.repeat(np.arange(PROMPTS), MEMBERS)
    c = summary(CreamMethod(), matrix=matrix).consistency

    assert c.residual.absent == CONSTANT
    assert c.null.estimate == pytest.approx(0.5, abs=0.01)
    assert c.null.gaussian == 0.5


@pytest.mark.parametrize("members", [2, 3, 4])
def test_a_few_completions_are_enough(members):
    c = summary(CreamMethod(), matrix=noise_matrix(4_000, members)).consistency

    assert c.rate == pytest.approx(c.null.estimate, abs=0.02)
    assert c.residual.estimate == pytest.approx(0.5, abs=0.025)


def test_what_a_length_regularised_reward_shares_is_seen():
    c = summary(DiceMethod()).consistency

    assert c.null.shared == "M0"
    assert c.null.estimate == pytest.approx(c.rate, abs=0.02)


def implicit(model, unit: Any = "implicit", reference="M0"):
    return LogpQuantity(unit=unit, model=model, reference=reference)


def test_which_terms_two_quantities_share():
    sums, means = (LogpQuantity(unit=u, model="M0") for u in ("likelihood", "mean_likelihood"))
    one, two = implicit("M2"), implicit("M1")
    both = Ensemble(members=(two, implicit("M2")), combine="min")
    mixed = Ensemble(members=(two, implicit("M2", reference="M1")))

    assert shared_terms(one, two) == ((sums, -1), (sums, -1))
    assert shared_terms(one, both) == ((sums, -1), (sums, -1))
    assert shared_terms(LengthRegularised(base=one), two) == ((sums, -1), (sums, -1))
    assert shared_terms(one, implicit("M1", "implicit_per_token")) == ((sums, -1), (means, -1))
    assert shared_terms(one, means) == ((sums, -1), (means, 1))
    for other in (mixed, Votes(), implicit("M1", reference="M3"), implicit("M1", "likelihood")):
        assert shared_terms(one, other) is None


def test_the_null_of_an_ensemble_witness_is_that_of_its_noise():
    """K is the least of two policies' rewards, both against M0."""
    matrix = noise_matrix()
    third = np.random.default_rng(9).normal(-30, 5, PROMPTS * MEMBERS)
    matrix = replace(matrix, logps={**matrix.logps, "M3": third}, noise={**matrix.noise, "M3": 0.0})
    method = CreamMethod(witness=EarlierModels(combine="min"))
    c = summary(method, t=3, matrix=matrix).consistency

    assert c.rate == pytest.approx(c.null.estimate, abs=0.015)
    assert c.residual.estimate == pytest.approx(0.5, abs=0.015)


def test_predictors_of_noise_tell_nothing_and_each_says_how_many_pairs_it_had():
    found = summary(CreamMethod())

    assert set(found.predictors) == {"consistency", "residual", "pair_level", "reward_gap"}
    for auroc in (*found.predictors.values(), *(w.auroc for w in found.witnesses.values())):
        assert auroc.estimate == pytest.approx(0.5, abs=0.06)  # 763 pairs: standard error 0.021
        assert auroc.low <= auroc.estimate <= auroc.high
        assert auroc.n == pytest.approx(PROMPTS / 2, abs=80)


def test_a_predictor_that_knows_has_an_auroc_near_one():
    """Each prompt's verdicts follow M2's ranking where M1 agrees and oppose it elsewhere."""
    matrix = noise_matrix(400, 2)
    implicit_rewards = [matrix.logps[m] - matrix.logps["M0"] for m in ("M2", "M1")]
    current, previous = (r.reshape(-1, 2)[:, 0] > r.reshape(-1, 2)[:, 1] for r in implicit_rewards)
    first_right = np.where(current == previous, current, ~current)
    matrix.scores[VERIFIER][:] = np.stack([first_right, ~first_right], axis=1).ravel()
    found = summary(CreamMethod(), matrix=matrix)

    assert found.predictors["consistency"].estimate == 1.0
    assert found.predictors["consistency"].n == 400
    assert found.witnesses["implicit(M1)"].auroc.estimate == 1.0
    assert found.predictors["reward_gap"].estimate < 0.9


def test_without_verdicts_there_is_no_auroc_and_a_reason():
    matrix = noise_matrix(30)
    matrix.scores[VERIFIER][:] = np.nan
    found = summary(CreamMethod(), matrix=matrix).predictors["consistency"]

    assert (found.estimate, found.n, found.absent) == (None, 0, "no_items")


def test_a_declaration_by_hand_may_name_the_statistics():
    one, two = implicit("M2"), implicit("M1")
    for statistic in ("residual_kendall", "partial_kendall"):
        assert Agreement(first=one, second=two, statistic=statistic).statistic == statistic
    assert Agreement(first=one, second=two, statistic="residual_kendall", level="shrunken")
    with pytest.raises(ValueError, match="kendall or residual_kendall"):
        Agreement(first=one, second=two, statistic="partial_kendall", level="shrunken")
