"""Options of CREAM at the level of the trained pair."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cream.recipe.base import Section
from cream.recipe.comparison import PreviousModel, WitnessChoice
from cream.recipe.methods.cream import refuse_set_level_action
from cream.recipe.objectives import AgreementObjective
from cream.recipe.objectives import Cream as CreamObjective
from cream.recipe.pairing import BestWorst
from cream.recipe.parts import BelowHalf, Compare, PairFilter, TwoGaussian, Unit


class CreamPairMethod(Section):
    """C is that of the pair that is trained on, not the mean over all orders of its group."""

    name: Literal["cream_pair"] = "cream_pair"
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs."""
    probability: TwoGaussian = TwoGaussian()
    """Where C of a pair comes from."""
    witness: WitnessChoice = PreviousModel()
    """Whose ranking is compared with that of M_t."""
    compare: Compare = "like_for_like"
    """Which rankings are compared where the witness is M0."""
    filter: PairFilter = "agreeing"
    """``agreeing`` trains only on pairs that the witness orders the same way."""
    below_half: BelowHalf = "floor"
    """What happens to a C below 1/2 before it enters the loss."""
    pairing: BestWorst = BestWorst()
    """Best against worst: the pair that the probability is about."""
    objective: AgreementObjective = CreamObjective()

    @model_validator(mode="after")
    def _there_is_no_set_level(self) -> CreamPairMethod:
        refuse_set_level_action(self.objective, "pair")
        return self
