"""SRLM: self-rewarding by implicit reward, C not measured into the loss (the paper's baselines).

Source: Wang et al., arXiv 2410.12735: SRLM (C = 1), SRLM + KL, and CREAM with a hand-picked C. All
make the same pairs as CREAM.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cream.recipe.methods import MethodSection
from cream.recipe.objectives import (
    ConservativeDpo,
    Dpo,
    ObjectiveConfig,
    PlainObjective,
    SmoothedObjective,
    SrlmKl,
)
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import LogpQuantity, MethodParts, Unit
from cream.recipe.witness import reported_agreement


class OwnRewardMethod(MethodSection):
    """What the methods have in common that take M_t at its word."""

    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs."""
    pairing: RewardPairing = BestWorst()

    def _parts(self, t: int, objective: ObjectiveConfig) -> MethodParts:
        return MethodParts(
            reward=LogpQuantity(unit=self.reward, model=f"M{t}"),
            reported=reported_agreement(self.reward, t),
            pairing=self.pairing,
            objective=objective,
        )


class SrlmMethod(OwnRewardMethod):
    """Self-rewarding without regularisation: the same pairs, C = 1 (the paper's baseline)."""

    name: Literal["srlm"] = "srlm"
    objective: PlainObjective = Dpo()

    def parts(self, t: int) -> MethodParts:
        """C reported but not used."""
        return self._parts(t, self.objective)


class SrlmKlMethod(OwnRewardMethod):
    """SRLM that is held near the policy at the start of the stage (the paper's SRLM + KL)."""

    name: Literal["srlm_kl"] = "srlm_kl"
    objective: SrlmKl
    """Its ``kl_weight`` must be given: the paper does not state one."""

    def parts(self, t: int) -> MethodParts:
        """C reported but not used."""
        return self._parts(t, self.objective)


class FixedSmoothingMethod(OwnRewardMethod):
    """The same constant C for every pair of every iteration (the paper's CREAM without RC)."""

    name: Literal["fixed_smoothing"] = "fixed_smoothing"
    consistency: float = Field(ge=0.5, le=1.0)
    """C, in [1/2, 1]. The paper does not state the one it picked."""
    objective: SmoothedObjective = SmoothedObjective()

    @model_validator(mode="before")
    @classmethod
    def _beta_stands_in_the_objective(cls, values: Any) -> Any:
        return SmoothedObjective.refuse_old_place(values)

    def parts(self, t: int) -> MethodParts:
        """One C for all is conservative DPO with label smoothing 1 - C."""
        given = self.objective
        smoothing = 1 - self.consistency
        return self._parts(
            t,
            ConservativeDpo(
                beta=given.beta,
                label_smoothing=smoothing,
                nll=given.nll,
                degree=given.degree,
                optimism=given.optimism,
            ),
        )


METHODS = (SrlmMethod, SrlmKlMethod, FixedSmoothingMethod)
