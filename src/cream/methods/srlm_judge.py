"""Self-rewarding by words: a judge's mean score picks the pairs, every pair trusted fully.

Source: Yuan et al., arXiv 2401.10020; a baseline in the CREAM paper.
"""

from __future__ import annotations

from cream.methods.comparison import compared_rankings
from cream.recipe.methods import SrlmJudgeMethod
from cream.recipe.parts import Agreement, LogpQuantity, MethodParts, ScoreQuantity


def srlm_judge_parts(method: SrlmJudgeMethod, t: int) -> MethodParts:
    """Parts of iteration t: best against worst by score, equal scores ordered by M_t's quantity.

    A completion without a score is never paired. C is that of the tie-break quantity, reported but
    not used.
    """
    first, second = compared_rankings(method.tie_break, t)
    return MethodParts(
        reward=ScoreQuantity(column="judge"),
        tie_break=LogpQuantity(unit=method.tie_break, model=f"M{t}"),
        reported=Agreement(first=first, second=second),
        pairing=method.pairing,
        objective=method.objective,
    )
