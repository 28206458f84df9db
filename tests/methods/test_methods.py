"""What each method reads and does at t = 1, where M0 is the previous model, and later."""

import pytest

from cream.recipe.methods.cream import CreamMethod
from cream.recipe.methods.judged import OracleMethod
from cream.recipe.methods.srlm import SrlmMethod
from cream.recipe.objectives import Cream, Dpo
from cream.recipe.parts import Agreement, BestWorst, LogpQuantity, ScoreQuantity


def logp(unit, model):
    return LogpQuantity(unit=unit, model=model)


def test_cream_compares_like_with_like_at_the_first_iteration():
    """M0's implicit reward is 0 everywhere: mean log-likelihoods of M1 and M0 stand in for both."""
    parts = CreamMethod().parts(1)

    assert parts.reward == logp("implicit", "M1")
    assert parts.agreement == Agreement(
        first=logp("mean_likelihood", "M1"), second=logp("mean_likelihood", "M0")
    )
    assert parts.reported is None
    assert parts.logp_columns == ("M1", "M0")


def test_the_reference_codes_first_iteration_is_available_under_its_own_name():
    parts = CreamMethod(compare="reference_code").parts(1)

    assert parts.agreement is not None
    assert parts.agreement.first == logp("implicit", "M1")
    assert parts.agreement.second == logp("mean_likelihood", "M0")


@pytest.mark.parametrize("compare", ["like_for_like", "reference_code"])
def test_from_the_second_iteration_on_the_pair_picking_reward_of_both_models_is_compared(compare):
    parts = CreamMethod(compare=compare).parts(2)

    assert parts.reward == logp("implicit", "M2")
    assert parts.agreement is not None
    assert (parts.agreement.first, parts.agreement.second) == (
        logp("implicit", "M2"),
        logp("implicit", "M1"),
    )
    assert parts.logp_columns == ("M2", "M0", "M1")


@pytest.mark.parametrize("compare", ["like_for_like", "reference_code"])
def test_a_likelihood_reward_is_compared_with_that_of_m0_from_the_start(compare):
    parts = CreamMethod(reward="likelihood", compare=compare).parts(1)

    assert parts.agreement is not None
    assert (parts.agreement.first, parts.agreement.second) == (
        logp("likelihood", "M1"),
        logp("likelihood", "M0"),
    )


def test_a_per_token_implicit_reward_needs_the_rule_of_the_first_iteration_too():
    parts = CreamMethod(reward="implicit_per_token").parts(1)

    assert parts.reward == logp("implicit_per_token", "M1")
    assert parts.agreement is not None
    assert parts.agreement.first == logp("mean_likelihood", "M1")
    assert CreamMethod(reward="implicit_per_token").parts(3).logp_columns == (
        "M3",
        "M0",
        "M2",
    )


def test_creams_options_reach_its_parts():
    method = CreamMethod(
        level="sample",
        statistic="top_order",
        below_half="drop",
        pairing=BestWorst(min_gap=2.0, truncated="keep"),
        objective=Cream(beta=0.3),
    )
    parts = method.parts(2)

    assert parts.agreement is not None
    assert parts.agreement.level == "sample"
    assert parts.agreement.statistic == "top_order"
    assert parts.agreement.below_half == "drop"
    assert parts.pairing == method.pairing
    assert parts.objective == Cream(beta=0.3, set_level_action="train")


@pytest.mark.parametrize("t", [1, 2])
def test_srlm_makes_creams_pairs_and_only_reports_c(t):
    cream, srlm = CreamMethod().parts(t), SrlmMethod().parts(t)

    assert srlm.reward == cream.reward
    assert srlm.pairing == cream.pairing
    assert srlm.agreement is None
    assert srlm.reported == cream.agreement
    assert srlm.objective == Dpo()
    assert srlm.logp_columns == (f"M{t}", "M0")
    assert set(srlm.reported_columns) <= set(cream.logp_columns)


def test_the_oracle_ranks_by_the_verdict_and_breaks_ties_by_its_own_quantity():
    parts = OracleMethod(tie_break="likelihood").parts(2)

    assert parts.reward == ScoreQuantity(column="verifier")
    assert parts.tie_break == logp("likelihood", "M2")
    assert parts.agreement is None
    assert parts.reported is not None
    assert parts.reported.second == logp("likelihood", "M1")
    assert parts.score_columns == ("verifier",)
    assert parts.logp_columns == ("M2",)
    assert parts.reported_columns == ("M2", "M1")


@pytest.mark.parametrize("method", [CreamMethod(), SrlmMethod()])
def test_only_the_oracle_reads_answers(method):
    for t in (1, 2, 5):
        assert method.parts(t).score_columns == ()
