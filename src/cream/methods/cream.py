"""CREAM: self-rewarding whose pairs are trusted as far as successive models rank alike.

Source: Wang et al., arXiv 2410.12735. J is the ranking by M_t, K by M_{t-1}; C is the mean of
(tau + 1) / 2 over prompts; the loss is C * DPO(chosen > rejected) + (1 - C) * DPO(reversed).
"""

from __future__ import annotations

from cream.methods.comparison import compared_rankings
from cream.recipe.methods import CreamMethod
from cream.recipe.parts import Agreement, LogpQuantity, MethodParts


def cream_parts(method: CreamMethod, t: int) -> MethodParts:
    """Parts of iteration t. See `cream.methods.comparison` for what C compares."""
    first, second = compared_rankings(method.reward, t, method.compare)
    return MethodParts(
        reward=LogpQuantity(unit=method.reward, model=f"M{t}"),
        agreement=Agreement(
            first=first,
            second=second,
            statistic=method.statistic,
            level=method.level,
            below_half=method.below_half,
        ),
        pairing=method.pairing,
        objective=method.objective,
    )
