"""Options of CREAM with a C for each prompt."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cream.recipe.base import Section
from cream.recipe.comparison import PreviousModel, WitnessChoice
from cream.recipe.methods.cream import refuse_set_level_action
from cream.recipe.objectives import AgreementObjective
from cream.recipe.objectives import Cream as CreamObjective
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import BelowHalf, Compare, PairFilter, Unit


class CreamSampleMethod(Section):
    """CREAM at the sample level (``dyn`` in the paper's code): each prompt has its own C."""

    name: Literal["cream_sample"] = "cream_sample"
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs."""
    level: Literal["sample", "shrunken"] = "sample"
    """``sample``: C_j as measured. ``shrunken``: drawn to the mean over prompts as far as the
    spread of the C_j is sampling noise (ours)."""
    witness: WitnessChoice = PreviousModel()
    """Whose ranking is compared with that of M_t."""
    compare: Compare = "like_for_like"
    """Which rankings are compared where the witness is M0."""
    filter: PairFilter = "none"
    """``agreeing`` trains only on pairs that the witness orders the same way."""
    below_half: BelowHalf = "floor"
    """What happens to a C below 1/2 before it enters the loss."""
    pairing: RewardPairing = BestWorst()
    objective: AgreementObjective = CreamObjective()

    @model_validator(mode="after")
    def _there_is_no_set_level(self) -> CreamSampleMethod:
        refuse_set_level_action(self.objective, self.level)
        return self
