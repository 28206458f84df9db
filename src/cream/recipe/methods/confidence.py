"""Labels of the pairs the model is least sure of are smoothed.

Source: SPA, Kim et al., arXiv 2406.04412; decided once from the score matrix, not in every step.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cream.recipe.methods import MethodSection
from cream.recipe.objectives import Cream, SmoothedObjective
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import LogpQuantity, LowConfidence, MethodParts, Unit
from cream.recipe.witness import reported_agreement


class SpaMethod(MethodSection):
    """SPA (arXiv 2406.04412): smoothed labels for the pairs the model is least sure of."""

    name: Literal["spa"] = "spa"
    reward: Unit = "implicit"
    """Quantity of M_t that picks the pairs and says how sure it is."""
    share: float = Field(default=0.1, ge=0.0, le=1.0)
    """Share of the pairs, those with the smallest reward gap, whose labels are smoothed (K)."""
    label_smoothing: float = Field(default=0.1, ge=0.0, le=0.5)
    """Probability that the order of such a pair is wrong (alpha)."""
    pairing: RewardPairing = BestWorst()
    objective: SmoothedObjective = SmoothedObjective()

    @model_validator(mode="before")
    @classmethod
    def _beta_stands_in_the_objective(cls, values: Any) -> Any:
        return SmoothedObjective.refuse_old_place(values)

    def parts(self, t: int) -> MethodParts:
        """C by the size of the reward gap; that of the rankings is only reported."""
        return MethodParts(
            reward=LogpQuantity(unit=self.reward, model=f"M{t}"),
            reported=reported_agreement(self.reward, t),
            smoothing=LowConfidence(share=self.share, label_smoothing=self.label_smoothing),
            pairing=self.pairing,
            objective=Cream(
                beta=self.objective.beta,
                nll=self.objective.nll,
                degree=self.objective.degree,
                optimism=self.objective.optimism,
            ),
        )


METHODS = (SpaMethod,)
