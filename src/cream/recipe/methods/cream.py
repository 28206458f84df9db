"""Options of the CREAM method."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cream.recipe.base import Section
from cream.recipe.comparison import PreviousModel, WitnessChoice
from cream.recipe.objectives import AgreementObjective
from cream.recipe.objectives import Cream as CreamObjective
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import BelowHalf, Compare, PairFilter, Statistic, Unit


class CreamMethod(Section):
    """CREAM (arXiv 2410.12735): pairs are trusted as far as rankings of successive models agree."""

    name: Literal["cream"] = "cream"
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs. The paper uses ``implicit``."""
    level: Literal["set", "sample", "shrunken"] = "set"
    """``set``: one C per iteration (the paper's main method); ``sample``: one per prompt;
    ``shrunken``: one per prompt, drawn to the set's as far as it is sampling noise."""
    witness: WitnessChoice = PreviousModel()
    """Whose ranking is compared with that of M_t. The paper asks M_{t-1}."""
    compare: Compare = "like_for_like"
    """Which rankings are compared where the witness is M0. ``like_for_like``: mean log-likelihoods
    of both models (M0's implicit reward is identically zero). ``reference_code``: the implicit
    reward of M_t against the mean log-likelihood of M0, which share log pi_0 with opposite signs
    and so bias tau downwards. ``implicit``: implicit rewards always, refused where it meets M0."""
    statistic: Statistic = "kendall"
    """How two rankings of a group are compared. The paper's main choice is Kendall's tau."""
    filter: PairFilter = "none"
    """``agreeing`` trains only on pairs that the witness orders the same way."""
    below_half: BelowHalf = "floor"
    """What happens to a C below 1/2 before it enters the loss; the reported C is never floored."""
    pairing: RewardPairing = BestWorst()
    objective: AgreementObjective = CreamObjective()

    @model_validator(mode="after")
    def _set_level_action_needs_a_set_level(self) -> CreamMethod:
        refuse_set_level_action(self.objective, self.level)
        if self.level == "shrunken" and self.statistic != "kendall":
            raise ValueError(
                "level: shrunken rests on the sampling noise of Kendall's tau; set statistic: "
                f"kendall (it is {self.statistic}), or level: set or sample"
            )
        return self


def refuse_set_level_action(objective: AgreementObjective, level: str) -> None:
    """Refuse an action on one C for the whole set where there is none.

    Raises:
        ValueError: The objective acts on the set and the level is not ``set``.
    """
    if not isinstance(objective, CreamObjective) or objective.set_level_action == "train":
        return
    if level != "set":
        raise ValueError(
            f"objective.set_level_action: {objective.set_level_action} acts on one C for the whole "
            f"set, and level is {level}; set level: set, or set_level_action: train"
        )
