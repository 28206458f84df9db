"""The options of each method, one class per method: an option a method lacks cannot be written.

`cream.methods` turns these into parts; see ``docs/methods/`` for equations and sources.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cream.recipe.base import Section
from cream.recipe.objectives import Cream as CreamObjective
from cream.recipe.objectives import Dpo
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


class SrlmMethod(Section):
    """Self-rewarding without regularisation: the same pairs, C = 1 (the paper's baseline)."""

    name: Literal["srlm"] = "srlm"
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs."""
    pairing: BestWorst = BestWorst()
    objective: Dpo = Dpo()


class OracleMethod(Section):
    """The verifier's binary verdict as the reward: an upper bound, it reads the answers."""

    name: Literal["oracle"] = "oracle"
    tie_break: Unit = "implicit"
    """Quantity of M_t that orders completions with equal verdicts."""
    pairing: BestWorst = BestWorst()
    """Equal verdicts are ties, so only groups with right and wrong answers give a pair."""
    objective: Dpo = Dpo()


def _from_name(value: Any) -> Any:
    """``method: cream`` is short for ``method: {name: cream}``."""
    return {"name": value} if isinstance(value, str) else value


MethodConfig = Annotated[
    Annotated[CreamMethod | SrlmMethod | OracleMethod, Field(discriminator="name")],
    BeforeValidator(_from_name),
]
