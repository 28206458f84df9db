"""Self-rewarding by the implicit reward without its preference for length.

Source: DICE, Chen et al., arXiv 2406.09760.
"""

from __future__ import annotations

from typing import Literal

from cream.recipe.methods import MethodSection
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import LengthRegularised, LogpQuantity, MethodParts
from cream.recipe.witness import reported_agreement


class DiceMethod(MethodSection):
    """DICE (arXiv 2406.09760): the implicit reward, freed of its preference for length."""

    name: Literal["dice"] = "dice"
    pairing: RewardPairing = BestWorst()
    objective: PlainObjective = Dpo()

    def parts(self, t: int) -> MethodParts:
        """C, of the rewards before regularisation, is only reported."""
        return MethodParts(
            reward=LengthRegularised(base=LogpQuantity(unit="implicit", model=f"M{t}")),
            reported=reported_agreement("implicit", t),
            pairing=self.pairing,
            objective=self.objective,
        )


METHODS = (DiceMethod,)
