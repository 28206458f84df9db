"""Methods as declarations: options and an iteration number in, `MethodParts` out.

A method says which quantity picks the pairs, which rankings are compared, how pairs are made and
which objective trains on them. It runs nothing. The one dispatch point is `method_parts`.
"""

from __future__ import annotations

from typing import assert_never

from cream.errors import RecipeError
from cream.methods.cream import cream_pair_parts, cream_parts, cream_sample_parts
from cream.methods.cream_cross import cream_cross_parts
from cream.methods.cream_reference import cream_reference_parts
from cream.methods.dice import dice_parts
from cream.methods.oracle import oracle_parts
from cream.methods.scored import scored_parts
from cream.methods.scpo import scpo_parts
from cream.methods.spa import spa_parts
from cream.methods.spin import spin_parts
from cream.methods.srlm import fixed_smoothing_parts, srlm_parts
from cream.methods.temporal import temporal_parts
from cream.recipe.methods import (
    CreamCrossMethod,
    CreamMethod,
    CreamPairMethod,
    CreamReferenceMethod,
    CreamSampleMethod,
    CustomMethod,
    DiceMethod,
    FixedSmoothingMethod,
    MethodConfig,
    OracleMethod,
    RewardModelMethod,
    ScpoMethod,
    SpaMethod,
    SpinMethod,
    SrlmJudgeMethod,
    SrlmKlMethod,
    SrlmMethod,
    TemporalMethod,
)
from cream.recipe.parts import MethodParts

__all__ = ["method_parts"]


def method_parts(method: MethodConfig, t: int) -> MethodParts:  # noqa: C901 - a case per method
    """What iteration t (M_t -> M_{t+1}, t >= 1) of a method reads and does."""
    match method:
        case CreamMethod():
            return cream_parts(method, t)
        case CreamSampleMethod():
            return cream_sample_parts(method, t)
        case CreamPairMethod():
            return cream_pair_parts(method, t)
        case CreamCrossMethod():
            return cream_cross_parts(method, t)
        case CreamReferenceMethod():
            return cream_reference_parts(method, t)
        case SrlmMethod() | SrlmKlMethod():
            return srlm_parts(method, t)
        case FixedSmoothingMethod():
            return fixed_smoothing_parts(method, t)
        case DiceMethod():
            return dice_parts(method, t)
        case ScpoMethod():
            return scpo_parts(method, t)
        case SpaMethod():
            return spa_parts(method, t)
        case SpinMethod():
            return spin_parts(method, t)
        case OracleMethod():
            return oracle_parts(method, t)
        case SrlmJudgeMethod() | RewardModelMethod():
            return scored_parts(method, t)
        case TemporalMethod():
            return temporal_parts(method, t)
        case CustomMethod(label=label):
            raise RecipeError(
                f"method {label!r} was composed in Python, and the recipe only records it; go on "
                "with cream.run(..., method=...)"
            )
        case _:
            assert_never(method)
