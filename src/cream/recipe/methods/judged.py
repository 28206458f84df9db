"""Ranking by a score column, every pair trusted fully: of a judge, a reward, or the verifier.

Sources: the judge, Yuan et al., arXiv 2401.10020, a baseline in the CREAM paper; the reward model,
that paper's oracle. Our oracle reads the answers: an upper bound.
"""

from __future__ import annotations

from typing import Literal

from cream.recipe.columns import VERIFIER
from cream.recipe.methods import MethodSection
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.pairing import BestWorst, RewardPairing
from cream.recipe.parts import LogpQuantity, MethodParts, ScoreQuantity, Unit
from cream.recipe.scorers import AnyJudge, JudgeConfig, RewardModelConfig, SteerConfig
from cream.recipe.witness import reported_agreement


class ScoredMethod(MethodSection):
    """What the methods have in common that rank by a score column."""

    tie_break: Unit = "implicit"
    """Quantity of M_t that orders completions with equal scores."""
    pairing: RewardPairing = BestWorst()
    """Equal scores are ties, so only groups with two different scores give a pair."""
    objective: PlainObjective = Dpo()

    def _parts(self, t: int, column: str) -> MethodParts:
        """Best against worst by score; a completion without a score is never paired.

        C is that of the tie-break quantity, reported but not used: what the model's own ranking
        does while it is trained on labels of others.
        """
        return MethodParts(
            reward=ScoreQuantity(column=column),
            tie_break=LogpQuantity(unit=self.tie_break, model=f"M{t}"),
            reported=reported_agreement(self.tie_break, t),
            pairing=self.pairing,
            objective=self.objective,
        )


class SrlmJudgeMethod(ScoredMethod):
    """Self-rewarding by words (arXiv 2401.10020): a judge's mean score picks the pairs, C = 1."""

    name: Literal["srlm_judge"] = "srlm_judge"
    judge: AnyJudge = JudgeConfig()
    """Who judges, how often, and how it is sampled."""

    @property
    def scorer(self) -> AnyJudge:
        """The judge."""
        return self.judge

    def parts(self, t: int) -> MethodParts:
        """Pairs by the judge's score."""
        return self._parts(t, self.judge.column)


class RewardModelMethod(ScoredMethod):
    """An external reward model picks the pairs, C = 1 (the oracle of the CREAM paper)."""

    name: Literal["reward_model"] = "reward_model"
    reward_model: RewardModelConfig
    """Which reward model, and how it is run."""

    @property
    def scorer(self) -> RewardModelConfig:
        """The reward model."""
        return self.reward_model

    def parts(self, t: int) -> MethodParts:
        """Pairs by the reward model's score."""
        return self._parts(t, self.reward_model.column)


class SteeredMethod(ScoredMethod):
    """A reward steered by one user's choices picks the pairs, C = 1 (arXiv 2412.13998)."""

    name: Literal["steered"] = "steered"
    steer: SteerConfig
    """Which reward, for whom."""

    @property
    def scorer(self) -> SteerConfig:
        """The reward."""
        return self.steer

    def parts(self, t: int) -> MethodParts:
        """Pairs by the reward for the user."""
        return self._parts(t, self.steer.column)


class OracleMethod(ScoredMethod):
    """The verifier's binary verdict as the reward: an upper bound, it reads the answers."""

    name: Literal["oracle"] = "oracle"

    def parts(self, t: int) -> MethodParts:
        """Right against wrong."""
        return self._parts(t, VERIFIER)


METHODS = (SrlmJudgeMethod, RewardModelMethod, SteeredMethod, OracleMethod)
