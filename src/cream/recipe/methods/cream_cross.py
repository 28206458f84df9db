"""Options of cross-fitted CREAM."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cream.recipe.base import Section
from cream.recipe.objectives import Cream as CreamObjective
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import BelowHalf, Unit


class CreamCrossMethod(Section):
    """CREAM whose second ranking is that of a witness: an M1 made from other seed data. Ours."""

    name: Literal["cream_cross"] = "cream_cross"
    witness: str = Field(min_length=1)
    """Name of a model under ``witnesses``."""
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs."""
    witness_reward: Unit = "mean_likelihood"
    """Quantity of the witness that is asked about them."""
    use: Literal["filter", "smooth", "two_gaussian"] = "filter"
    """``filter``: train only on pairs that the witness orders alike, and fully (C = 1).
    ``smooth``: on all pairs, with one C where the witness agrees and one where it does not, counted
    on the seed examples held out by ``calibration``. ``two_gaussian``: on all pairs, each with the
    C of two Gaussian raters whose rankings of its prompt agree as the two do."""
    below_half: BelowHalf = "floor"
    """What happens to a C below 1/2 if ``use`` is not ``filter``."""
    pairing: RewardPairing = BestWorst()
    objective: CreamObjective = CreamObjective()

    @model_validator(mode="after")
    def _options_that_act(self) -> CreamCrossMethod:
        if self.objective.set_level_action != "train":
            raise ValueError(
                f"objective.set_level_action: {self.objective.set_level_action} acts on one C for "
                "the whole set, and cream_cross has one per pair; leave it at train"
            )
        if self.use == "filter" and self.below_half != "floor":
            raise ValueError(
                "below_half acts on a C below 1/2, and under use: filter every C is 1; leave it "
                "out, or set use: smooth"
            )
        return self
