"""Temporal self-rewarding: worst of the past against best of the future.

Source: Wang et al., arXiv 2508.06026. Their M0 is the model after supervised fine-tuning, our M1.
"""

from __future__ import annotations

from typing import Annotated, Literal, assert_never

from pydantic import Field

from cream.recipe.base import Section, usual
from cream.recipe.methods import MethodSection
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.pairing import BestWorst
from cream.recipe.parts import LogpQuantity, MethodParts, PastAndFuture, ScoreQuantity, Unit
from cream.recipe.scorers import AnyJudge, JudgeConfig, RewardModelConfig, TextScorerConfig


class ScoredByJudge(Section):
    """A judge asked in words, as in ``srlm_judge``."""

    source: Literal["judge"] = "judge"
    judge: AnyJudge = JudgeConfig()
    """Who judges, how often, and how it is sampled."""
    tie_break: Unit = "implicit"
    """Quantity of M_t that orders completions of one model with equal scores."""


class ScoredByRewardModel(Section):
    """An external reward model, as in ``reward_model``."""

    source: Literal["reward_model"]
    reward_model: RewardModelConfig
    """Which reward model, and how it is run."""
    tie_break: Unit = "implicit"
    """Quantity of M_t that orders completions of one model with equal scores."""


class ScoredByPolicy(Section):
    """A quantity computed from log-probabilities of M_t, as in ``srlm``."""

    source: Literal["policy"]
    reward: Unit = "implicit"
    """Which quantity."""


AnyScore = Annotated[
    Annotated[ScoredByJudge | ScoredByRewardModel | ScoredByPolicy, Field(discriminator="source")],
    usual("source", "judge"),
]
"""``source`` decides which fields may follow; left out it is ``judge``."""


class TemporalMethod(MethodSection):
    """Temporal self-rewarding (arXiv 2508.06026): rejected from the past, chosen from the future.

    Each iteration trains twice from M_t: a temporary future model on pairs of M_t and the past
    model, then M_{t+1} on pairs whose chosen completion may be the future model's.
    """

    name: Literal["temporal"] = "temporal"
    score: AnyScore = ScoredByJudge()
    """What ranks the completions of all three models; M_t scores in every case but a judge or
    reward model of its own."""
    past: Literal["sft", "seed"] = "sft"
    """The past model: M1, the paper's, or M0."""
    pairing: BestWorst = BestWorst()
    """Best of those that may be chosen against the worst of those that may be rejected."""
    objective: PlainObjective = Dpo()
    """Of both trainings."""

    @property
    def scorer(self) -> TextScorerConfig | None:
        """The judge or reward model of the score, if it is either's."""
        match self.score:
            case ScoredByJudge(judge=judge):
                return judge
            case ScoredByRewardModel(reward_model=model):
                return model
            case ScoredByPolicy():
                return None
            case _:
                assert_never(self.score)

    @property
    def scorer_section(self) -> str:
        """Inside the score."""
        return f"method.score.{self.scorer.column}" if self.scorer else "method.score"

    def parts(self, t: int) -> MethodParts:
        """Parts of iteration t; those of its draft, which trains the future model, follow.

        No C is measured: the groups hold completions of three models.
        """
        reward, tie_break = self._ranking(t)
        return MethodParts(
            reward=reward,
            tie_break=tie_break,
            others=PastAndFuture(past={"sft": "M1", "seed": "M0"}[self.past], future=f"F{t + 1}"),
            pairing=self.pairing,
            objective=self.objective,
        )

    def _ranking(self, t: int) -> tuple[LogpQuantity | ScoreQuantity, LogpQuantity | None]:
        """What ranks the completions, and what orders those of one model that it ranks alike."""
        match self.score:
            case (
                ScoredByJudge(judge=scorer, tie_break=unit)
                | ScoredByRewardModel(reward_model=scorer, tie_break=unit)
            ):
                tie_break = LogpQuantity(unit=unit, model=f"M{t}")
                return ScoreQuantity(column=scorer.column), tie_break
            case ScoredByPolicy(reward=unit):
                return LogpQuantity(unit=unit, model=f"M{t}"), None
            case _:
                assert_never(self.score)


METHODS = (TemporalMethod,)
