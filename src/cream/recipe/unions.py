"""Sections of which one of several stands at a place, told apart by a key that may be left out.

``pairing: {min_gap: 1}`` means ``pairing: {rule: best_worst, min_gap: 1}``: settings of the usual
member stay short, and a recipe that names another member must give that one's settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BeforeValidator


def usual(key: str, value: str) -> BeforeValidator:
    """Read a mapping without `key` as if it said ``key: value``, and a bare word as ``key: word``.

    Used around a union whose discriminator is `key`.
    """

    def complete(given: Any) -> Any:
        if isinstance(given, str):
            return {key: given}
        if isinstance(given, Mapping) and key not in given:
            return {key: value, **given}
        return given

    return BeforeValidator(complete)
