"""What every section of a recipe is, and how unions of sections are written short."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors, values are never corrected silently.

    Subclasses document each field in a docstring under it, with unit, range and source; the
    docstrings become the descriptions in the recipe's JSON Schema.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        validate_default=True,
        allow_inf_nan=False,
    )


def usual(key: str, value: str) -> BeforeValidator:
    """Read a mapping without `key` as if it said ``key: value``, and a bare word as ``key: word``.

    Used around a union whose discriminator is `key`. ``pairing: {min_gap: 1}`` means ``pairing:
    {rule: best_worst, min_gap: 1}``: settings of the usual member stay short, and a recipe that
    names another member must give that one's settings.
    """

    def complete(given: Any) -> Any:
        if isinstance(given, str):
            return {key: given}
        if isinstance(given, Mapping) and key not in given:
            return {key: value, **given}
        return given

    return BeforeValidator(complete)
