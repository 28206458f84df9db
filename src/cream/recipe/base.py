"""The one base of every section of a recipe: frozen, complete, and closed to unknown keys."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors, values are never corrected silently.

    Subclasses document each field in a docstring under it, with unit, range and source; the
    docstrings become the descriptions in the recipe's JSON Schema.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True
    )
