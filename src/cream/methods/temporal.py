"""Temporal self-rewarding: worst of the past against best of the future.

Source: Wang et al., arXiv 2508.06026. Their M0 is the model after supervised fine-tuning, our M1.
"""

from __future__ import annotations

from typing import assert_never

from cream.recipe.methods.temporal import (
    AnyScore,
    ScoredByJudge,
    ScoredByPolicy,
    ScoredByRewardModel,
    TemporalMethod,
)
from cream.recipe.parts import (
    LogpQuantity,
    MethodParts,
    PastAndFuture,
    ScoreQuantity,
)


def temporal_parts(method: TemporalMethod, t: int) -> MethodParts:
    """Parts of iteration t; those of its draft, which trains the future model, follow from them.

    No C is measured: the groups hold completions of three models.
    """
    reward, tie_break = _ranking(method.score, t)
    return MethodParts(
        reward=reward,
        tie_break=tie_break,
        others=PastAndFuture(past={"sft": "M1", "seed": "M0"}[method.past], future=f"F{t + 1}"),
        pairing=method.pairing,
        objective=method.objective,
    )


def _ranking(score: AnyScore, t: int) -> tuple[LogpQuantity | ScoreQuantity, LogpQuantity | None]:
    """What ranks the completions, and what orders those of one model that it ranks alike."""
    match score:
        case ScoredByJudge(tie_break=unit):
            return ScoreQuantity(column="judge"), LogpQuantity(unit=unit, model=f"M{t}")
        case ScoredByRewardModel(tie_break=unit):
            return ScoreQuantity(column="reward_model"), LogpQuantity(unit=unit, model=f"M{t}")
        case ScoredByPolicy(reward=unit):
            return LogpQuantity(unit=unit, model=f"M{t}"), None
        case _:
            assert_never(score)
