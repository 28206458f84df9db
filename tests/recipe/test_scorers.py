"""Sections of judges and reward models say one thing only and refuse what would be ignored."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from cream.recipe.methods import MethodConfig
from cream.recipe.methods.judged import SrlmJudgeMethod
from cream.recipe.scorers import JudgeConfig, PairwiseJudgeConfig, RewardModelConfig


def method(value: Any) -> Any:
    return TypeAdapter(MethodConfig).validate_python(value)


def test_the_policy_judges_three_times_by_default():
    found = method("srlm_judge")

    assert isinstance(found, SrlmJudgeMethod)
    assert found.judge == JudgeConfig(model="policy", votes=3, temperature=0.7, top_p=0.9)


def test_a_reward_model_must_be_named():
    with pytest.raises(ValidationError, match="reward_model"):
        method("reward_model")
    with pytest.raises(ValidationError, match="name"):
        method({"name": "reward_model", "reward_model": {}})


@pytest.mark.parametrize("own", ["policy", "seed"])
@pytest.mark.parametrize(
    "setting", [{"revision": "main"}, {"chat_template": "{{ x }}"}, {"trust_remote_code": True}]
)
def test_settings_of_a_judge_of_its_own_are_refused_for_a_model_of_the_run(own, setting):
    with pytest.raises(ValidationError, match=f"{next(iter(setting))} would be ignored"):
        JudgeConfig(model=own, **setting)
    assert JudgeConfig(model="./other", **setting).model == "./other"


def test_a_greedy_judge_has_one_vote():
    with pytest.raises(ValidationError, match="set votes: 1"):
        JudgeConfig(temperature=0.0, votes=2)
    assert JudgeConfig(temperature=0.0, votes=1).votes == 1


def test_the_embedded_model_has_no_revision_and_is_no_reward_model():
    with pytest.raises(ValidationError, match="one pinned revision"):
        JudgeConfig(model="smollm2-135m-instruct", revision="main")
    with pytest.raises(ValidationError, match="without a classification head"):
        RewardModelConfig(name="smollm2-135m-instruct")


@pytest.mark.parametrize(
    "value",
    [{"votes": 0}, {"temperature": -0.1}, {"top_p": 0.0}, {"model": " "}, {"rubric": "other"}],
)
def test_values_out_of_range_are_refused(value):
    with pytest.raises(ValidationError):
        JudgeConfig(**value)


def test_a_method_without_a_judge_has_no_such_section():
    with pytest.raises(ValidationError, match="judge"):
        method({"name": "srlm", "judge": {"votes": 1}})


def test_a_judge_of_pairs_is_named_by_its_rubric_and_has_no_votes():
    found = method({"name": "srlm_judge", "judge": {"rubric": "pairwise", "model": "seed"}})

    assert found.judge == PairwiseJudgeConfig(rubric="pairwise", model="seed")
    with pytest.raises(ValidationError, match="votes"):
        method({"name": "srlm_judge", "judge": {"rubric": "pairwise", "votes": 2}})
