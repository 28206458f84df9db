"""The scorers that read text which a method ranks by, and their settings."""

from __future__ import annotations

from cream.recipe.methods import MethodConfig, RewardModelMethod, SrlmJudgeMethod
from cream.recipe.scorers import JudgeConfig, PairwiseJudgeConfig, RewardModelConfig


def judge_of(method: MethodConfig) -> JudgeConfig | PairwiseJudgeConfig | None:
    """The judge that a method asks, if it asks one."""
    return method.judge if isinstance(method, SrlmJudgeMethod) else None


def reward_model_of(method: MethodConfig) -> RewardModelConfig | None:
    """The reward model that a method ranks by, if it does."""
    return method.reward_model if isinstance(method, RewardModelMethod) else None
