"""ScPO: the most voted answer against the least voted one, weighed by the vote margin.

Source: Prasad et al., arXiv 2411.04109, section 2.
"""

from __future__ import annotations

from cream.recipe.methods import ScpoMethod
from cream.recipe.parts import LogpQuantity, MethodParts, Votes


def scpo_parts(method: ScpoMethod, t: int) -> MethodParts:
    """Parts of iteration t."""
    tie_break = LogpQuantity(unit=method.tie_break, model=f"M{t}") if method.tie_break else None
    return MethodParts(
        reward=Votes(),
        tie_break=tie_break,
        pair_weight="reward_gap",
        pairing=method.pairing,
        objective=method.objective,
    )
