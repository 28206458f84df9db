"""The scorers that read text which a method ranks by, and their settings."""

from __future__ import annotations

from cream.recipe.methods import MethodConfig, RewardModelMethod, SrlmJudgeMethod, TemporalMethod
from cream.recipe.methods.temporal import ScoredByJudge, ScoredByRewardModel
from cream.recipe.scorers import JudgeConfig, PairwiseJudgeConfig, RewardModelConfig


def judge_of(method: MethodConfig) -> JudgeConfig | PairwiseJudgeConfig | None:
    """The judge that a method asks, if it asks one."""
    match method:
        case SrlmJudgeMethod(judge=judge) | TemporalMethod(score=ScoredByJudge(judge=judge)):
            return judge
        case _:
            return None


def reward_model_of(method: MethodConfig) -> RewardModelConfig | None:
    """The reward model that a method ranks by, if it does."""
    match method:
        case RewardModelMethod(reward_model=model):
            return model
        case TemporalMethod(score=ScoredByRewardModel(reward_model=model)):
            return model
        case _:
            return None


def scorer_section(method: MethodConfig) -> str:
    """The section of a recipe in which ``judge`` or ``reward_model`` of a method stands."""
    return "method.score" if isinstance(method, TemporalMethod) else "method"
