"""Oracle: the verifier's verdict as the reward. It reads the answers: an upper bound."""

from __future__ import annotations

from cream.methods.comparison import compared_rankings
from cream.recipe.methods import OracleMethod
from cream.recipe.parts import Agreement, LogpQuantity, MethodParts, ScoreQuantity


def oracle_parts(method: OracleMethod, t: int) -> MethodParts:
    """Parts of iteration t: right against wrong, equal verdicts ordered by M_t's own quantity.

    C is that of the tie-break quantity, reported but not used: what the model's own ranking does
    while it is trained on true labels.
    """
    first, second = compared_rankings(method.tie_break, t)
    return MethodParts(
        reward=ScoreQuantity(column="verifier"),
        tie_break=LogpQuantity(unit=method.tie_break, model=f"M{t}"),
        reported=Agreement(first=first, second=second),
        pairing=method.pairing,
        objective=method.objective,
    )
