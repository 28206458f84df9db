"""The options of each method, one class per method: an option a method lacks cannot be written.

`cream.methods` turns these into parts; see ``docs/methods/`` for equations and sources.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from cream.recipe.methods.cream import CreamMethod
from cream.recipe.methods.oracle import OracleMethod
from cream.recipe.methods.srlm import SrlmMethod

__all__ = ["CreamMethod", "MethodConfig", "OracleMethod", "SrlmMethod"]


def _from_name(value: Any) -> Any:
    """``method: cream`` is short for ``method: {name: cream}``."""
    return {"name": value} if isinstance(value, str) else value


MethodConfig = Annotated[
    Annotated[CreamMethod | SrlmMethod | OracleMethod, Field(discriminator="name")],
    BeforeValidator(_from_name),
]
