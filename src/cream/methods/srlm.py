"""SRLM: self-rewarding by implicit reward without regularisation, C = 1 (the paper's baseline)."""

from __future__ import annotations

from cream.methods.comparison import compared_rankings
from cream.recipe.methods import SrlmMethod
from cream.recipe.parts import Agreement, LogpQuantity, MethodParts


def srlm_parts(method: SrlmMethod, t: int) -> MethodParts:
    """Parts of iteration t: the same pairs as CREAM, C reported but not used."""
    first, second = compared_rankings(method.reward, t)
    return MethodParts(
        reward=LogpQuantity(unit=method.reward, model=f"M{t}"),
        reported=Agreement(first=first, second=second),
        pairing=method.pairing,
        objective=method.objective,
    )
