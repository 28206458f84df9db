"""The options of each method, one class per method: an option a method lacks cannot be written.

`cream.methods` turns these into parts; see ``docs/methods/`` for equations and sources.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from cream.recipe.methods.cream import CreamMethod
from cream.recipe.methods.cream_cross import CreamCrossMethod
from cream.recipe.methods.cream_pair import CreamPairMethod
from cream.recipe.methods.cream_reference import CreamReferenceMethod
from cream.recipe.methods.cream_sample import CreamSampleMethod
from cream.recipe.methods.custom import CustomMethod
from cream.recipe.methods.dice import DiceMethod
from cream.recipe.methods.fixed_smoothing import FixedSmoothingMethod
from cream.recipe.methods.oracle import OracleMethod
from cream.recipe.methods.reward_model import RewardModelMethod
from cream.recipe.methods.scpo import ScpoMethod
from cream.recipe.methods.spa import SpaMethod
from cream.recipe.methods.spin import SpinMethod
from cream.recipe.methods.srlm import SrlmMethod
from cream.recipe.methods.srlm_judge import SrlmJudgeMethod
from cream.recipe.methods.srlm_kl import SrlmKlMethod
from cream.recipe.methods.temporal import TemporalMethod

__all__ = [
    "CreamCrossMethod",
    "CreamMethod",
    "CreamPairMethod",
    "CreamReferenceMethod",
    "CreamSampleMethod",
    "CustomMethod",
    "DiceMethod",
    "FixedSmoothingMethod",
    "MethodConfig",
    "OracleMethod",
    "RewardModelMethod",
    "ScpoMethod",
    "SpaMethod",
    "SpinMethod",
    "SrlmJudgeMethod",
    "SrlmKlMethod",
    "SrlmMethod",
    "TemporalMethod",
]


def _from_name(value: Any) -> Any:
    """``method: cream`` is short for ``method: {name: cream}``."""
    return {"name": value} if isinstance(value, str) else value


MethodConfig = Annotated[
    Annotated[
        CreamMethod
        | SrlmMethod
        | OracleMethod
        | CreamCrossMethod
        | CreamPairMethod
        | CreamReferenceMethod
        | CreamSampleMethod
        | CustomMethod
        | DiceMethod
        | FixedSmoothingMethod
        | RewardModelMethod
        | ScpoMethod
        | SpaMethod
        | SpinMethod
        | SrlmJudgeMethod
        | SrlmKlMethod
        | TemporalMethod,
        Field(discriminator="name"),
    ],
    BeforeValidator(_from_name),
]
