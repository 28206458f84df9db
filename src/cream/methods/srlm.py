"""SRLM: self-rewarding by implicit reward without regularisation, C = 1 (the paper's baseline)."""

from __future__ import annotations

from cream.recipe.methods import SrlmMethod
from cream.recipe.parts import LogpQuantity, MethodParts


def srlm_parts(method: SrlmMethod, t: int) -> MethodParts:
    """Parts of iteration t: the same pairs as CREAM, no agreement."""
    return MethodParts(
        reward=LogpQuantity(unit=method.reward, model=f"M{t}"),
        pairing=method.pairing,
        objective=method.objective,
    )
