"""Options of the oracle."""

from __future__ import annotations

from typing import Literal

from cream.recipe.base import Section
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import Unit


class OracleMethod(Section):
    """The verifier's binary verdict as the reward: an upper bound, it reads the answers."""

    name: Literal["oracle"] = "oracle"
    tie_break: Unit = "implicit"
    """Quantity of M_t that orders completions with equal verdicts."""
    pairing: RewardPairing = BestWorst()
    """Equal verdicts are ties, so only groups with right and wrong answers give a pair."""
    objective: PlainObjective = Dpo()
