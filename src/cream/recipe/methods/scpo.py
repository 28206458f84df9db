"""Options of ScPO."""

from __future__ import annotations

from typing import Literal

from cream.recipe.base import Section
from cream.recipe.objectives import ConstantNll, Dpo, PlainObjective
from cream.recipe.pairing import MajorityVote
from cream.recipe.parts import Unit


class ScpoMethod(Section):
    """ScPO (arXiv 2411.04109): the most voted answer against the least voted one."""

    name: Literal["scpo"] = "scpo"
    tie_break: Unit | None = None
    """Quantity of M_t that orders completions with equal votes; none: arbitrary but fixed."""
    pairing: MajorityVote = MajorityVote()
    objective: PlainObjective = Dpo(beta=0.5, nll=ConstantNll(weight=1.0))
    """Each pair's loss, likelihood term included, is multiplied by its vote margin. Beta and weight
    are the paper's."""
