"""DICE: self-rewarding by the implicit reward without its preference for length.

Source: Chen et al., arXiv 2406.09760.
"""

from __future__ import annotations

from cream.methods.comparison import compared_rankings
from cream.recipe.methods import DiceMethod
from cream.recipe.parts import Agreement, LengthRegularised, LogpQuantity, MethodParts


def dice_parts(method: DiceMethod, t: int) -> MethodParts:
    """Parts of iteration t; C, of the rewards before regularisation, is only reported."""
    first, second = compared_rankings("implicit", t)
    return MethodParts(
        reward=LengthRegularised(base=LogpQuantity(unit="implicit", model=f"M{t}")),
        reported=Agreement(first=first, second=second),
        pairing=method.pairing,
        objective=method.objective,
    )
