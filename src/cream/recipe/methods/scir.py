"""Self-consistent internal rewards: two judges of one model (arXiv 2502.08922)."""

from __future__ import annotations

from typing import Literal

from cream.recipe.methods import MethodSection
from cream.recipe.objectives import Scir
from cream.recipe.pairing import RandomPair
from cream.recipe.parts import LogpQuantity, MethodParts
from cream.recipe.witness import reported_agreement


class ScirMethod(MethodSection):
    """Implicit and generative judge pulled together at every step; DPO on what both prefer."""

    name: Literal["scir"] = "scir"
    pairing: RandomPair = RandomPair()
    """Unlabelled pairs; labels are made at every step of the training."""
    objective: Scir = Scir()

    def parts(self, t: int) -> MethodParts:
        """Pairs without a label; the reward is only reported."""
        return MethodParts(
            reward=LogpQuantity(unit="implicit", model=f"M{t}"),
            reported=reported_agreement("implicit", t),
            pairing=self.pairing,
            objective=self.objective,
        )


METHODS = (ScirMethod,)
