"""Parts of the methods that divide the seed examples or learn from them."""

import pytest

from cream.recipe.methods.cream_cross import CreamCrossMethod
from cream.recipe.methods.spin import SpinMethod
from cream.recipe.objectives import Cream, Dpo
from cream.recipe.pairing import AllPairs, BestWorst
from cream.recipe.parts import Calibrated, LogpQuantity, ScoreQuantity, TwoGaussian


@pytest.mark.parametrize("t", [1, 3])
def test_cream_cross_asks_the_same_witness_in_every_iteration(t: int):
    parts = CreamCrossMethod(witness="other", reward="implicit_per_token").parts(t)  # pyright: ignore

    assert parts.reward == LogpQuantity(unit="implicit_per_token", model=f"M{t}")
    assert parts.agreement is not None
    assert parts.agreement.first == parts.reward
    assert parts.agreement.second == LogpQuantity(unit="mean_likelihood", model="other")
    assert parts.logp_columns == (f"M{t}", "M0", "other")
    assert parts.score_columns == ()
    assert parts.prompts == "unlabelled"


@pytest.mark.parametrize(
    ("use", "level", "filtered"),
    [
        ("filter", "one", "agreeing"),
        ("smooth", Calibrated(), "none"),
        ("two_gaussian", TwoGaussian(), "none"),
    ],
)
def test_cream_cross_drops_pairs_or_weighs_them(use, level, filtered):
    parts = CreamCrossMethod(witness="other", use=use).parts(1)  # pyright: ignore

    assert parts.agreement is not None
    assert (parts.agreement.level, parts.agreement.filter) == (level, filtered)
    assert parts.objective == Cream(set_level_action="train")


def test_an_implicit_witness_is_compared_with_m0_as_well():
    parts = CreamCrossMethod(witness="other", witness_reward="implicit").parts(2)  # pyright: ignore

    assert parts.agreement is not None
    assert parts.agreement.second == LogpQuantity(unit="implicit", model="other", reference="M0")


def test_spin_ranks_by_origin_and_compares_nothing():
    parts = SpinMethod(objective=Dpo(beta=0.5)).parts(2)

    assert parts.reward == ScoreQuantity(column="from_data")
    assert parts.prompts == "seed"
    assert parts.agreement is None
    assert parts.reported is None
    assert parts.tie_break is None
    assert parts.logp_columns == ()
    assert parts.objective == Dpo(beta=0.5)


def test_spin_rejects_one_completion_of_the_policy_or_all():
    assert SpinMethod().parts(1).pairing == BestWorst()
    assert SpinMethod(rejected="all", truncated="keep").parts(1).pairing == AllPairs(
        truncated="keep"
    )
