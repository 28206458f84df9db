"""SPA: labels of the pairs the model is least sure of are smoothed.

Source: Kim et al., arXiv 2406.04412; decided once from the score matrix, not in every step.
"""

from __future__ import annotations

from cream.methods.comparison import compared_rankings
from cream.recipe.methods import SpaMethod
from cream.recipe.objectives import Cream
from cream.recipe.parts import Agreement, LogpQuantity, LowConfidence, MethodParts


def spa_parts(method: SpaMethod, t: int) -> MethodParts:
    """Parts of iteration t."""
    first, second = compared_rankings(method.reward, t)
    return MethodParts(
        reward=LogpQuantity(unit=method.reward, model=f"M{t}"),
        reported=Agreement(first=first, second=second),
        smoothing=LowConfidence(share=method.share, label_smoothing=method.label_smoothing),
        pairing=method.pairing,
        objective=Cream(beta=method.beta, nll=method.nll),
    )
