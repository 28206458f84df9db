"""The record of a method that was composed in Python."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cream.recipe.base import Section


class CustomMethod(Section):
    """Stands in the recipe of a run whose method is an object in Python; made by `cream.run`."""

    name: Literal["custom"] = "custom"
    label: str = Field(min_length=1)
    """What the object calls itself."""
    fingerprint: str = Field(min_length=1)
    """What the object says it is."""
