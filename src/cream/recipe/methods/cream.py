"""Options of the CREAM method."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cream.recipe.base import Section
from cream.recipe.objectives import Cream as CreamObjective
from cream.recipe.parts import BelowHalf, BestWorst, Compare, Statistic, Unit


class CreamMethod(Section):
    """CREAM (arXiv 2410.12735): pairs are trusted as far as rankings of successive models agree."""

    name: Literal["cream"] = "cream"
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs. The paper uses ``implicit``."""
    level: Literal["set", "sample"] = "set"
    """``set``: one C per iteration (the paper's main method); ``sample``: one per prompt."""
    compare: Compare = "like_for_like"
    """Which rankings are compared. ``like_for_like``: mean log-likelihoods of M1 and M0 at t = 1
    (where M0's implicit reward is identically zero), later the pair-picking reward of M_t and
    M_{t-1}. ``reference_code``: at t = 1 the implicit reward of M1 against the mean
    log-likelihood of M0, which share log pi_0 with opposite signs and so bias tau downwards."""
    statistic: Statistic = "kendall"
    """How two rankings of a group are compared. The paper's main choice is Kendall's tau."""
    below_half: BelowHalf = "floor"
    """What happens to a C below 1/2 before it enters the loss; the reported C is never floored."""
    pairing: BestWorst = BestWorst()
    objective: CreamObjective = CreamObjective()

    @model_validator(mode="after")
    def _set_level_action_needs_a_set_level(self) -> CreamMethod:
        action = self.objective.set_level_action
        if action != "train" and self.level != "set":
            raise ValueError(
                f"objective.set_level_action: {action} acts on one C for the whole set, and level "
                f"is {self.level}; set level: set, or set_level_action: train"
            )
        return self
