"""Ranking by a score beside the matrix, every pair trusted fully: a judge's or a reward model's.

Sources: the judge, Yuan et al., arXiv 2401.10020, a baseline in the CREAM paper; the reward model,
that paper's oracle.
"""

from __future__ import annotations

from cream.methods.comparison import compared_rankings
from cream.recipe.methods import RewardModelMethod, SrlmJudgeMethod
from cream.recipe.parts import Agreement, LogpQuantity, MethodParts, ScoreQuantity


def scored_parts(method: SrlmJudgeMethod | RewardModelMethod, t: int) -> MethodParts:
    """Parts of iteration t: best against worst by score, equal scores ordered by M_t's quantity.

    A completion without a score is never paired. C is that of the tie-break quantity, reported but
    not used.
    """
    first, second = compared_rankings(method.tie_break, t)
    column = "judge" if isinstance(method, SrlmJudgeMethod) else "reward_model"
    return MethodParts(
        reward=ScoreQuantity(column=column),
        tie_break=LogpQuantity(unit=method.tie_break, model=f"M{t}"),
        reported=Agreement(first=first, second=second),
        pairing=method.pairing,
        objective=method.objective,
    )
