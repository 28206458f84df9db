"""Options of the SRLM baseline."""

from __future__ import annotations

from typing import Literal

from cream.recipe.base import Section
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import Unit


class SrlmMethod(Section):
    """Self-rewarding without regularisation: the same pairs, C = 1 (the paper's baseline)."""

    name: Literal["srlm"] = "srlm"
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs."""
    pairing: RewardPairing = BestWorst()
    objective: PlainObjective = Dpo()
