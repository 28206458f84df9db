"""Options of SPA."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cream.recipe.base import Section
from cream.recipe.objectives import Beta, Nll
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import Unit


class SpaMethod(Section):
    """SPA (arXiv 2406.04412): smoothed labels for the pairs the model is least sure of."""

    name: Literal["spa"] = "spa"
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs and says how sure it is."""
    share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the pairs, those with the smallest reward gap, whose labels are smoothed (K)."""
    label_smoothing: float = Field(default=0.1, ge=0.0, le=0.5)
    """Probability that the order of such a pair is wrong (alpha)."""
    pairing: RewardPairing = BestWorst()
    beta: Beta = 0.1
    """Strength of the loss reference, > 0."""
    nll: Nll | None = None
    """Likelihood of the chosen completion beside the preference, or none."""
