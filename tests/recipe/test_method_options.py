"""Unions whose discriminator may be left out, and refusals where an option would not act."""

import pytest
from pydantic import ValidationError

from cream.errors import RecipeError
from cream.recipe.load import parse_recipe
from cream.recipe.methods import METHODS
from cream.recipe.methods.cream import CreamMethod
from cream.recipe.methods.srlm import SrlmMethod
from cream.recipe.methods.temporal import TemporalMethod
from cream.recipe.objectives import ConstantNll, Cream, Dpo, Ipo, WeightedDpo
from cream.recipe.pairing import BestWorst, MajorityVote, Penalise, TopBottom
from cream.recipe.parts import Agreement, LogpQuantity, MethodParts, PastAndFuture
from cream.recipe.score_source import ScoredByJudge, ScoredByPolicy
from cream.recipe.scorers import JudgeConfig

BASE = """name: small
iterations: 1
data:
  seed: {sources: [{source: file, path: seed.jsonl}]}
  prompts: {per_iteration: 3, sources: [{source: file, path: prompts.jsonl}]}
method: """


def method(text: str):
    return parse_recipe(BASE + text).method


def test_the_usual_member_of_a_union_need_not_be_named():
    found = method("{name: cream, pairing: {min_gap: 1.0}, objective: {beta: 0.3}}")

    assert found == CreamMethod(pairing=BestWorst(min_gap=1.0), objective=Cream(beta=0.3))
    assert method("{name: srlm, objective: {beta: 0.3}}") == SrlmMethod(objective=Dpo(beta=0.3))


def test_other_members_are_named():
    assert method("{name: cream, pairing: {rule: top_bottom, k: 2}}") == CreamMethod(
        pairing=TopBottom(k=2)
    )
    assert method("{name: cream, objective: weighted_dpo}") == CreamMethod(objective=WeightedDpo())
    assert method("{name: srlm, objective: {name: ipo}}") == SrlmMethod(objective=Ipo())
    assert method("{name: srlm, pairing: {truncated: {penalty: 2.0}}}") == SrlmMethod(
        pairing=BestWorst(truncated=Penalise(penalty=2.0))
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{name: cream, pairing: {k: 2}}", "method.pairing.k: unknown key"),
        ("{name: cream, pairing: {rule: top_bottom}}", "method.pairing.k: is needed"),
        ("{name: srlm, pairing: {rule: majority_vote}}", "`rule` cannot be 'majority_vote'"),
        ("{name: srlm, objective: cream}", "`name` cannot be 'cream'"),
        ("{name: cream, objective: dpo}", "`name` cannot be 'dpo'"),
        ("{name: srlm, pairing: {truncated: {penalty: 0}}}", "method.pairing.truncated.penalty: "),
        ("srlm_kl", "method.objective: is needed"),
        ("{name: srlm_kl, objective: {beta: 0.1}}", "method.objective.kl_weight: is needed"),
        ("fixed_smoothing", "method.consistency: is needed"),
        ("{name: fixed_smoothing, consistency: 0.4}", "method.consistency: Input should be great"),
        ("{name: cream, level: shrunken, statistic: spearman}", "sampling noise of Kendall's tau"),
        (
            "{name: cream_sample, objective: {set_level_action: skip}}",
            "acts on one C for the whole set, and level is sample",
        ),
        ("{name: dice, reward: implicit}", "method.reward: unknown key"),
    ],
)
def test_what_would_not_act_is_refused_where_it_stands(text: str, message: str):
    with pytest.raises(RecipeError) as error:
        method(text)

    assert message in str(error.value)


@pytest.mark.parametrize("given", ["{name: spa, ", "{name: fixed_smoothing, consistency: 0.8, "])
@pytest.mark.parametrize(
    ("old", "key"), [("beta: 0.3", "beta"), ("nll: {kind: constant, weight: 1.0}", "nll")]
)
def test_settings_that_moved_into_the_objective_are_refused_with_their_new_place(
    given: str, old: str, key: str
):
    with pytest.raises(RecipeError, match=rf"method: `{key}` .*method\.objective\.{key}=") as error:
        method(f"{given}{old}}}")
    assert "unknown key" not in str(error.value)

    moved = method(f"{given}objective: {{{old}}}}}").parts(1).objective
    assert getattr(moved, key) == getattr(Cream(beta=0.3, nll=ConstantNll(weight=1.0)), key)


@pytest.mark.parametrize(
    "text",
    [
        "cream",
        "cream_sample",
        "cream_pair",
        "{name: cream_cross, witness: w}",
        "cream_reference",
        "srlm",
        "{name: srlm_kl, objective: {kl_weight: 0.1}}",
        "{name: fixed_smoothing, consistency: 0.8}",
        "scpo",
        "dice",
        "spa",
        "srlm_judge",
        "{name: reward_model, reward_model: {name: ./r}}",
        "oracle",
        "spin",
        "temporal",
    ],
)
def test_beta_is_set_at_one_place_whatever_the_method(text: str):
    recipe = parse_recipe(BASE + text, ["method.objective.beta=0.37"])

    assert recipe.method.parts(2).objective.model_dump()["beta"] == 0.37


@pytest.mark.parametrize("name", sorted(cls.model_fields["name"].default for cls in METHODS))
def test_an_option_that_a_method_does_not_have_is_refused_with_those_it_has(name: str):
    (cls,) = (cls for cls in METHODS if cls.model_fields["name"].default == name)

    with pytest.raises(RecipeError) as error:
        method(f"{{name: {name}, no_such_option: 1}}")

    known = ", ".join(sorted(cls.model_fields))
    assert "method.no_such_option: unknown key" in str(error.value)
    assert f"Known keys here: {known}." in str(error.value)


def test_temporals_score_has_the_options_of_its_source():
    assert method("temporal") == TemporalMethod(score=ScoredByJudge())
    assert method("{name: temporal, score: policy}") == TemporalMethod(
        score=ScoredByPolicy(source="policy")
    )
    assert method("{name: temporal, score: {judge: {votes: 5}}}") == TemporalMethod(
        score=ScoredByJudge(judge=JudgeConfig(votes=5))
    )
    with pytest.raises(RecipeError, match=r"method\.score\.tie_break: unknown key"):
        method("{name: temporal, score: {source: policy, tie_break: likelihood}}")
    with pytest.raises(RecipeError, match=r"method\.pairing"):
        method("{name: temporal, pairing: {rule: all_pairs}}")


def test_parts_that_contradict_each_other_are_refused():
    reward = LogpQuantity(unit="implicit", model="M1")

    with pytest.raises(ValidationError, match="the reward is no vote"):
        MethodParts(reward=reward, pairing=MajorityVote(), objective=Dpo())
    others = PastAndFuture(past="M1", future="F2")
    with pytest.raises(ValidationError, match=r"paired by pairing\.rule: best_worst"):
        MethodParts(reward=reward, others=others, pairing=TopBottom(k=2), objective=Dpo())
    with pytest.raises(ValidationError, match="completions that M_t did not sample"):
        MethodParts(
            reward=reward,
            agreement=Agreement(first=reward, second=reward),
            others=others,
            pairing=BestWorst(),
            objective=Dpo(),
        )
    with pytest.raises(ValidationError, match="distribution of Kendall's tau"):
        Agreement(first=reward, second=reward, statistic="top_order", level="shrunken")
