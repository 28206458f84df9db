"""SELM: self-rewarding that explores, its objective made less sure of what M_t answers already.

Source: Zhang et al., arXiv 2405.19332. Their group is one answer of the policy and two of the data,
ranked by PairRM; ours the N samples of M_t, ranked as the method says.
"""

from __future__ import annotations

from typing import Literal

from cream.recipe.methods.srlm import OwnRewardMethod
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.optimism import Optimism
from cream.recipe.parts import MethodParts


class SelmMethod(OwnRewardMethod):
    """SELM (arXiv 2405.19332): the pairs of SRLM, and optimism beside their loss."""

    name: Literal["selm"] = "selm"
    objective: PlainObjective = Dpo(optimism=Optimism(alpha=1e-3))

    def parts(self, t: int) -> MethodParts:
        """C reported but not used."""
        return self._parts(t, self.objective)


METHODS = (SelmMethod,)
