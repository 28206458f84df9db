"""Options of SRLM with a divergence penalty."""

from __future__ import annotations

from typing import Literal

from cream.recipe.base import Section
from cream.recipe.objectives import SrlmKl
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import Unit


class SrlmKlMethod(Section):
    """SRLM that is held near the policy at the start of the stage (the paper's SRLM + KL)."""

    name: Literal["srlm_kl"] = "srlm_kl"
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs."""
    pairing: RewardPairing = BestWorst()
    objective: SrlmKl
    """Its ``kl_weight`` must be given: the paper does not state one."""
