"""Ranking by votes on the extracted answer.

Source: ScPO, Prasad et al., arXiv 2411.04109, section 2.
"""

from __future__ import annotations

from typing import Literal

from cream.recipe.methods import MethodSection
from cream.recipe.objectives import ConstantNll, Dpo, PlainObjective
from cream.recipe.pairing import MajorityVote
from cream.recipe.parts import LogpQuantity, MethodParts, Unit, Votes


class ScpoMethod(MethodSection):
    """ScPO (arXiv 2411.04109): the most voted answer against the least voted one."""

    name: Literal["scpo"] = "scpo"
    tie_break: Unit | None = None
    """Quantity of M_t that orders completions with equal votes; none: arbitrary but fixed."""
    pairing: MajorityVote = MajorityVote()
    objective: PlainObjective = Dpo(beta=0.5, nll=ConstantNll(weight=1.0))
    """Each pair's loss, likelihood term included, is multiplied by its vote margin. Beta and weight
    are the paper's."""

    def parts(self, t: int) -> MethodParts:
        """Pairs by votes, weighed by the vote margin."""
        return MethodParts(
            reward=Votes(),
            tie_break=LogpQuantity(unit=self.tie_break, model=f"M{t}") if self.tie_break else None,
            pair_weight="reward_gap",
            pairing=self.pairing,
            objective=self.objective,
        )


METHODS = (ScpoMethod,)
