"""SRLM: self-rewarding by implicit reward, C not measured into the loss (the paper's baselines).

Source: Wang et al., arXiv 2410.12735: SRLM (C = 1), SRLM + KL, and CREAM with a hand-picked C.
"""

from __future__ import annotations

from cream.methods.comparison import compared_rankings
from cream.recipe.methods import FixedSmoothingMethod, SrlmKlMethod, SrlmMethod
from cream.recipe.objectives import ConservativeDpo, ObjectiveConfig
from cream.recipe.parts import Agreement, LogpQuantity, MethodParts


def srlm_parts(method: SrlmMethod | SrlmKlMethod, t: int) -> MethodParts:
    """Parts of iteration t: the same pairs as CREAM, C reported but not used."""
    return _parts(method, t, method.objective)


def fixed_smoothing_parts(method: FixedSmoothingMethod, t: int) -> MethodParts:
    """Parts of iteration t: the same pairs, all with the recipe's C.

    One C for all is conservative DPO with label smoothing 1 - C.
    """
    objective = ConservativeDpo(
        beta=method.beta, label_smoothing=1 - method.consistency, nll=method.nll
    )
    return _parts(method, t, objective)


def _parts(
    method: SrlmMethod | SrlmKlMethod | FixedSmoothingMethod, t: int, objective: ObjectiveConfig
) -> MethodParts:
    first, second = compared_rankings(method.reward, t)
    return MethodParts(
        reward=LogpQuantity(unit=method.reward, model=f"M{t}"),
        reported=Agreement(first=first, second=second),
        pairing=method.pairing,
        objective=objective,
    )
