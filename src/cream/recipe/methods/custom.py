"""The record of a method that was composed in Python."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cream.errors import RecipeError
from cream.recipe.methods import MethodSection
from cream.recipe.parts import MethodParts


class CustomMethod(MethodSection):
    """Stands in the recipe of a run whose method is an object in Python; made by `cream.run`."""

    name: Literal["custom"] = "custom"
    label: str = Field(min_length=1)
    """What the object calls itself."""
    fingerprint: str = Field(min_length=1)
    """What the object says it is."""

    def parts(self, t: int) -> MethodParts:
        """Refused: the object has the parts, the recipe only records it."""
        raise RecipeError(
            f"method {self.label!r} was composed in Python, and the recipe only records it; go on "
            "with cream.run(..., method=...)"
        )


METHODS = (CustomMethod,)
