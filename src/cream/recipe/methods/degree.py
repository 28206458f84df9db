"""Preference degree beside DPO on SRLM's pairs (SPO, arXiv 2409.17791), as a method of its own.

The same term stands beside any other objective as its section ``degree``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cream.recipe.degree import PreferenceDegree
from cream.recipe.methods.srlm import OwnRewardMethod
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.parts import MethodParts


class PreferenceDegreeMethod(OwnRewardMethod):
    """SRLM with a term that tells from the policy's states how much an answer lost (SPO)."""

    name: Literal["preference_degree"] = "preference_degree"
    objective: PlainObjective = Dpo(degree=PreferenceDegree())
    """Must hold ``degree``."""

    @model_validator(mode="after")
    def _has_its_term(self) -> PreferenceDegreeMethod:
        if getattr(self.objective, "degree", None) is None:
            raise ValueError(
                "without `objective.degree` this is srlm: write `objective: {degree: {}}` with the "
                "options you want, or take method srlm"
            )
        return self

    def parts(self, t: int) -> MethodParts:
        """C reported but not used."""
        return self._parts(t, self.objective)


METHODS = (PreferenceDegreeMethod,)
