"""Ranking by votes on the extracted answer: ScPO, and what all samples agree on.

Source of the former: ScPO, Prasad et al., arXiv 2411.04109, section 2.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cream.recipe.methods import MethodSection
from cream.recipe.objectives import ChosenNll, ConstantNll, Dpo, PlainObjective
from cream.recipe.pairing import MajorityVote
from cream.recipe.parts import LogpQuantity, MethodParts, Unit, Votes


class ScpoMethod(MethodSection):
    """ScPO (arXiv 2411.04109): the most voted answer against the least voted one."""

    name: Literal["scpo"] = "scpo"
    tie_break: Unit | None = None
    """Quantity of M_t that orders completions with equal votes; none: arbitrary but fixed."""
    pairing: MajorityVote = MajorityVote()
    objective: PlainObjective = Dpo(beta=0.5, nll=ConstantNll(weight=1.0))
    """Each pair's loss, likelihood term included, is multiplied by its vote margin. Beta and weight
    are the paper's."""

    def parts(self, t: int) -> MethodParts:
        """Pairs by votes, weighed by the vote margin."""
        return MethodParts(
            reward=Votes(),
            tie_break=LogpQuantity(unit=self.tie_break, model=f"M{t}") if self.tie_break else None,
            pair_weight="reward_gap",
            pairing=self.pairing,
            objective=self.objective,
        )


class UnanimousMethod(MethodSection):
    """What all samples of a prompt agree on is trained on by likelihood. Ours.

    The most trustworthy label that a model gives itself: of prompts whose samples are unanimous
    nearly all are right, also after several iterations, where looser votes decay.
    """

    name: Literal["unanimous"] = "unanimous"
    share: float = Field(default=1.0, gt=0.5, le=1.0)
    """Smallest share of the completions that must give the answer; 1: all of them. Below 1 an
    answer of the others is the rejected one, for objectives that read it."""
    tie_break: Unit = "mean_likelihood"
    """Quantity of M_t that picks among completions with that answer."""
    truncated: Literal["keep", "drop"] = "drop"
    """What to do with completions cut off at the token limit; either way they do not agree."""
    objective: PlainObjective = ChosenNll()

    def parts(self, t: int) -> MethodParts:
        """Votes as the reward; what is unanimous has nothing to reject."""
        return MethodParts(
            reward=Votes(),
            tie_break=LogpQuantity(unit=self.tie_break, model=f"M{t}"),
            pairing=MajorityVote(min_share=self.share, truncated=self.truncated, unanimous="nll"),
            objective=self.objective,
        )


METHODS = (ScpoMethod, UnanimousMethod)
