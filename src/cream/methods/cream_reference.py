"""CREAM by the rules of its authors' code (``github.com/Raibows/CREAM``, commit de1d04b).

At t = 1 the implicit reward of M1 is compared with the mean likelihood of M0; equal values are
ranked by their place in the list and copies count; truncated completions are paired; a C below 1/2
is used as it is. What still differs is listed in ``docs/methods/cream_reference.md``.
"""

from __future__ import annotations

from cream.methods.comparison import compared_rankings
from cream.recipe.methods import CreamReferenceMethod
from cream.recipe.pairing import BestWorst
from cream.recipe.parts import Agreement, LogpQuantity, MethodParts


def cream_reference_parts(method: CreamReferenceMethod, t: int) -> MethodParts:
    """Parts of iteration t."""
    first, second = compared_rankings("implicit", t, "reference_code")
    return MethodParts(
        reward=LogpQuantity(unit="implicit", model=f"M{t}"),
        agreement=Agreement(
            first=first,
            second=second,
            statistic="kendall_by_position",
            level=method.level,
            below_half="allow",
        ),
        pairing=BestWorst(truncated="keep"),
        objective=method.objective,
    )
