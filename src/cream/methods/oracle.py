"""Oracle: the verifier's verdict as the reward. It reads the answers: an upper bound."""

from __future__ import annotations

from cream.recipe.methods import OracleMethod
from cream.recipe.parts import LogpQuantity, MethodParts, ScoreQuantity


def oracle_parts(method: OracleMethod, t: int) -> MethodParts:
    """Parts of iteration t: right against wrong, equal verdicts ordered by M_t's own quantity."""
    return MethodParts(
        reward=ScoreQuantity(column="verifier"),
        tie_break=LogpQuantity(unit=method.tie_break, model=f"M{t}"),
        pairing=method.pairing,
        objective=method.objective,
    )
