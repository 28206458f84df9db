"""Methods as declarations: options and an iteration number in, `MethodParts` out.

A method says which quantity picks the pairs, which rankings are compared, how pairs are made and
which objective trains on them. It runs nothing. The one dispatch point is `method_parts`.
"""

from __future__ import annotations

from typing import assert_never

from cream.methods.cream import cream_parts
from cream.methods.oracle import oracle_parts
from cream.methods.srlm import srlm_parts
from cream.recipe.methods import CreamMethod, MethodConfig, OracleMethod, SrlmMethod
from cream.recipe.parts import MethodParts

__all__ = ["method_parts"]


def method_parts(method: MethodConfig, t: int) -> MethodParts:
    """What iteration t (M_t -> M_{t+1}, t >= 1) of a method reads and does."""
    match method:
        case CreamMethod():
            return cream_parts(method, t)
        case SrlmMethod():
            return srlm_parts(method, t)
        case OracleMethod():
            return oracle_parts(method, t)
        case _:
            assert_never(method)
