"""Which rankings are compared under each witness, and what each method declares."""

import pytest
from pydantic import TypeAdapter

from cream.errors import RecipeError
from cream.recipe.methods import MethodConfig
from cream.recipe.methods.confidence import SpaMethod
from cream.recipe.methods.cream import CreamMethod, CreamPairMethod, CreamReferenceMethod
from cream.recipe.methods.length import DiceMethod
from cream.recipe.methods.srlm import FixedSmoothingMethod, SrlmKlMethod
from cream.recipe.methods.votes import ScpoMethod
from cream.recipe.objectives import (
    ConservativeDpo,
    ConstantNll,
    Cream,
    Dpo,
    SmoothedObjective,
    SrlmKl,
)
from cream.recipe.parts import (
    Ensemble,
    LengthRegularised,
    LogpQuantity,
    LowConfidence,
    MeanMinusStds,
    ScoreQuantity,
    TwoGaussian,
    Votes,
)
from cream.recipe.witness import EarlierModels, NamedModel, ScoreWitness, VoteWitness


def logp(unit, model):
    return LogpQuantity(unit=unit, model=model)


def rankings(t, **options):
    agreement = CreamMethod(**options).parts(t).agreement
    assert agreement is not None
    return agreement.first, agreement.second


def test_m0_as_the_witness_follows_the_rule_of_the_first_iteration_at_every_t():
    m0 = NamedModel(model="M0")

    assert rankings(3, witness=m0) == (
        logp("mean_likelihood", "M3"),
        logp("mean_likelihood", "M0"),
    )
    assert rankings(3, witness=m0, compare="reference_code") == (
        logp("implicit", "M3"),
        logp("mean_likelihood", "M0"),
    )


def test_another_model_is_asked_for_the_reward_itself():
    other = NamedModel(model="other")

    assert rankings(1, witness=other) == (logp("implicit", "M1"), logp("implicit", "other"))


def test_earlier_models_leave_out_m0_where_it_has_no_reward():
    lower = MeanMinusStds(num_stds=1.0)
    implicit = Ensemble(members=(logp("implicit", "M1"), logp("implicit", "M2")), combine=lower)
    likelihood = Ensemble(members=tuple(logp("likelihood", f"M{m}") for m in range(3)))

    assert rankings(3, witness=EarlierModels(combine=lower))[1] == implicit
    assert rankings(3, witness=EarlierModels(), reward="likelihood")[1] == likelihood
    assert rankings(1, witness=EarlierModels()) == rankings(1)


def test_votes_and_scores_are_compared_with_the_reward():
    assert rankings(1, witness=VoteWitness()) == (logp("implicit", "M1"), Votes())
    assert rankings(2, witness=ScoreWitness(column="judge")) == (
        logp("implicit", "M2"),
        ScoreQuantity(column="judge"),
    )
    parts = CreamMethod(witness=VoteWitness()).parts(1)
    assert (parts.label_columns, parts.logp_columns) == (("extracted",), ("M1", "M0"))


def test_comparing_implicit_rewards_is_refused_where_m0_would_be_asked():
    method = CreamMethod(compare="implicit")

    with pytest.raises(RecipeError, match="zero everywhere"):
        method.parts(1)
    assert rankings(2, compare="implicit") == rankings(2)
    other = rankings(1, compare="implicit", witness=NamedModel(model="other"))
    assert other == (logp("implicit", "M1"), logp("implicit", "other"))


def test_a_model_cannot_be_its_own_witness():
    with pytest.raises(RecipeError, match="compared with itself at iteration 2"):
        CreamMethod(witness=NamedModel(model="M2")).parts(2)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("previous", CreamMethod()),
        ("M0", CreamMethod(witness=NamedModel(model="M0"))),
        ("votes", CreamMethod(witness=VoteWitness())),
        ({"kind": "score", "column": "j"}, CreamMethod(witness=ScoreWitness(column="j"))),
    ],
)
def test_a_witness_may_be_written_as_a_word(written, meant):
    found = TypeAdapter(MethodConfig).validate_python({"name": "cream", "witness": written})

    assert found == meant


def test_the_pair_level_and_the_filter_reach_the_parts():
    agreement = CreamPairMethod().parts(2).agreement

    assert agreement is not None
    assert (agreement.level, agreement.filter) == (TwoGaussian(), "agreeing")
    assert agreement.level_name == "pair"


def test_the_reference_rules_are_fixed():
    parts = CreamReferenceMethod().parts(1)

    assert parts.agreement is not None
    assert parts.agreement.second == logp("mean_likelihood", "M0")
    assert parts.agreement.statistic == "kendall_by_position"
    assert parts.agreement.below_half == "allow"
    assert parts.paired_by.truncated == "keep"


def test_fixed_smoothing_is_conservative_dpo():
    parts = FixedSmoothingMethod(consistency=0.75, objective=SmoothedObjective(beta=0.2)).parts(2)

    assert parts.objective == ConservativeDpo(beta=0.2, label_smoothing=0.25)
    assert parts.agreement is None


def test_each_remaining_method_declares_what_its_page_says():
    dice = DiceMethod().parts(2)
    scpo = ScpoMethod().parts(2)
    spa = SpaMethod(share=0.3).parts(2)
    kl = SrlmKlMethod(objective=SrlmKl(kl_weight=0.5)).parts(2)

    assert dice.reward == LengthRegularised(base=logp("implicit", "M2"))
    assert (scpo.reward, scpo.pair_weight) == (Votes(), "reward_gap")
    assert scpo.objective == Dpo(beta=0.5, nll=ConstantNll(weight=1.0))
    assert spa.smoothing == LowConfidence(share=0.3, label_smoothing=0.1)
    assert spa.objective == Cream(set_level_action="train")
    assert kl.objective == SrlmKl(kl_weight=0.5)
    assert kl.reward == spa.reward == logp("implicit", "M2")
