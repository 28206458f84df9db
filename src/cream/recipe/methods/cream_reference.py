"""Options of CREAM by the rules of the paper's code."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cream.recipe.base import Section
from cream.recipe.methods.cream import refuse_set_level_action
from cream.recipe.objectives import Cream as CreamObjective


class CreamReferenceMethod(Section):
    """CREAM as its authors' code decides it (commit de1d04b), as far as that can be had."""

    name: Literal["cream_reference"] = "cream_reference"
    level: Literal["set", "sample"] = "set"
    """``set`` is ``avg`` in that code, ``sample`` is ``dyn``."""
    objective: CreamObjective = Field(default=CreamObjective())

    @model_validator(mode="after")
    def _set_level_action_needs_a_set_level(self) -> CreamReferenceMethod:
        refuse_set_level_action(self.objective, self.level)
        return self
