"""Cross-fitted CREAM: pairs of M_t, checked by a model that learned from other seed data.

Ours. Agreement along one path (M_t with M_{t-1}) is agreement of a model with its own past; a
witness fine-tuned on another part of the seed data makes its own mistakes. What it is asked is the
order of the trained pair, not the order of the whole group.
"""

from __future__ import annotations

from cream.recipe.methods.cream_cross import CreamCrossMethod
from cream.recipe.parts import Agreement, Calibrated, LogpQuantity, MethodParts, TwoGaussian


def cream_cross_parts(method: CreamCrossMethod, t: int) -> MethodParts:
    """Parts of iteration t: the same witness in every iteration, the reward of M_t."""
    reward = LogpQuantity(unit=method.reward, model=f"M{t}")
    level = {"filter": "one", "smooth": Calibrated(), "two_gaussian": TwoGaussian()}[method.use]
    return MethodParts(
        reward=reward,
        agreement=Agreement(
            first=reward,
            second=LogpQuantity(unit=method.witness_reward, model=method.witness),
            level=level,
            filter="agreeing" if method.use == "filter" else "none",
            below_half=method.below_half,
        ),
        pairing=method.pairing,
        objective=method.objective,
    )
