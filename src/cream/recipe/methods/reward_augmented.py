"""Reward-augmented data: every pair under the goal that it wins, and reversed under the other.

Source: Zhang et al., arXiv 2410.08067. Their scores are a judge's of given answers; ours any source
of scores on what M_t sampled.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cream.recipe.goals import Goals
from cream.recipe.methods import MethodSection
from cream.recipe.objectives import AnyObjective, Cream, Dpo, WeightedDpo
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import Agreement, LogpQuantity, MethodParts
from cream.recipe.score_source import (
    AnyScoreOrVerdict,
    ScoredByPolicy,
    ranking,
    scorer_of,
    scorer_section,
)
from cream.recipe.scorers import TextScorerConfig
from cream.recipe.witness import compared_rankings, reported_agreement


class RewardAugmentedMethod(MethodSection):
    """Goal-conditioned DPO on self-made scores (arXiv 2410.08067)."""

    name: Literal["reward_augmented"] = "reward_augmented"
    score: AnyScoreOrVerdict = ScoredByPolicy(source="policy")
    """What ranks the completions, and is told as a goal."""
    goals: Goals = Goals()
    """How scores become goals, and where goals are told."""
    consistency: Literal["set", "sample"] | None = None
    """C of CREAM's loss, one for both rows of a pair: of the set, of each prompt, or null, without
    C. What is compared is the score's own quantity of M_t, or its tie-break, with M_{t-1}."""
    pairing: RewardPairing = BestWorst()
    objective: AnyObjective = Dpo()
    """Of either row; ``cream`` and ``weighted_dpo`` need ``consistency``."""

    @model_validator(mode="after")
    def _c_acts_where_it_is_asked_for(self) -> RewardAugmentedMethod:
        acts = isinstance(self.objective, Cream | WeightedDpo)
        if acts and self.consistency is None:
            raise ValueError(
                f"objective {self.objective.name} reads C, and consistency is null; set "
                "consistency: set or sample, or take objective dpo"
            )
        if self.consistency is not None and not acts:
            raise ValueError(
                f"consistency acts in objective cream or weighted_dpo, and this is "
                f"{self.objective.name}; leave it out, or change the objective"
            )
        return self

    @property
    def scorer(self) -> TextScorerConfig | None:
        """The judge or reward model of the score, if it is either's."""
        return scorer_of(self.score)

    @property
    def scorer_section(self) -> str:
        """Inside the score."""
        return scorer_section(self.score)

    def parts(self, t: int) -> MethodParts:
        """Parts of iteration t; only from t = 2 on does M_t know goals."""
        reward, tie_break = ranking(self.score, t)
        quantity = reward if tie_break is None else tie_break
        assert isinstance(quantity, LogpQuantity)
        agreement = None
        if self.consistency is not None:
            first, second = compared_rankings(quantity.unit, t)
            agreement = Agreement(first=first, second=second, level=self.consistency)
        return MethodParts(
            reward=reward,
            tie_break=tie_break,
            agreement=agreement,
            reported=None if agreement else reported_agreement(quantity.unit, t),
            pairing=self.pairing,
            goals=self.goals,
            sampled_goal=10 if t > 1 and self.goals.sample == "top" else None,
            objective=self.objective,
        )


METHODS = (RewardAugmentedMethod,)
