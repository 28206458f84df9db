"""Options of DICE."""

from __future__ import annotations

from typing import Literal

from cream.recipe.base import Section
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.pairing import BestWorst, RewardPairing


class DiceMethod(Section):
    """DICE (arXiv 2406.09760): the implicit reward, freed of its preference for length."""

    name: Literal["dice"] = "dice"
    pairing: RewardPairing = BestWorst()
    objective: PlainObjective = Dpo()
