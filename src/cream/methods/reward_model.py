"""Ranking by an external reward model, every pair trusted fully: the oracle of the CREAM paper."""

from __future__ import annotations

from cream.methods.comparison import compared_rankings
from cream.recipe.methods import RewardModelMethod
from cream.recipe.parts import Agreement, LogpQuantity, MethodParts, ScoreQuantity


def reward_model_parts(method: RewardModelMethod, t: int) -> MethodParts:
    """Parts of iteration t: best against worst by the reward model's score.

    A completion without a score is never paired. C is that of the tie-break quantity, reported but
    not used.
    """
    first, second = compared_rankings(method.tie_break, t)
    return MethodParts(
        reward=ScoreQuantity(column="reward_model"),
        tie_break=LogpQuantity(unit=method.tie_break, model=f"M{t}"),
        reported=Agreement(first=first, second=second),
        pairing=method.pairing,
        objective=method.objective,
    )
