"""Options of ranking by an external reward model."""

from __future__ import annotations

from typing import Literal

from cream.recipe.base import Section
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import Unit
from cream.recipe.scorers import RewardModelConfig


class RewardModelMethod(Section):
    """An external reward model picks the pairs, C = 1 (the oracle of the CREAM paper)."""

    name: Literal["reward_model"] = "reward_model"
    reward_model: RewardModelConfig
    """Which reward model, and how it is run."""
    tie_break: Unit = "implicit"
    """Quantity of M_t that orders completions with equal scores."""
    pairing: RewardPairing = BestWorst()
    objective: PlainObjective = Dpo()
