"""Options of self-rewarding by LLM-as-a-judge."""

from __future__ import annotations

from typing import Literal

from cream.recipe.base import Section
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import Unit
from cream.recipe.scorers import AnyJudge, JudgeConfig


class SrlmJudgeMethod(Section):
    """Self-rewarding by words (arXiv 2401.10020): a judge's mean score picks the pairs, C = 1."""

    name: Literal["srlm_judge"] = "srlm_judge"
    judge: AnyJudge = JudgeConfig()
    """Who judges, how often, and how it is sampled."""
    tie_break: Unit = "implicit"
    """Quantity of M_t that orders completions with equal scores."""
    pairing: RewardPairing = BestWorst()
    """Equal scores are ties, so only groups with two different scores give a pair."""
    objective: PlainObjective = Dpo()
