"""Options of CREAM with a hand-picked C."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cream.recipe.base import Section
from cream.recipe.objectives import Beta, Nll
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import Unit


class FixedSmoothingMethod(Section):
    """The same constant C for every pair of every iteration (the paper's CREAM without RC)."""

    name: Literal["fixed_smoothing"] = "fixed_smoothing"
    consistency: float = Field(ge=0.5, le=1.0)
    """C, in [1/2, 1]. The paper does not state the one it picked."""
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs."""
    pairing: RewardPairing = BestWorst()
    beta: Beta = 0.1
    """Strength of the loss reference, > 0."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none."""
