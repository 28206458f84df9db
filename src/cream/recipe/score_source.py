"""What ranks completions where a method leaves it open: a judge, a reward model, M_t, verdicts."""

from __future__ import annotations

from typing import Annotated, Literal, assert_never

from pydantic import Field

from cream.recipe.base import Section, usual
from cream.recipe.columns import VERIFIER
from cream.recipe.parts import LogpQuantity, ScoreQuantity, Unit
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


class ScoredByVerifier(Section):
    """The verifier's verdict, as in ``oracle``: it reads the answers."""

    source: Literal["verifier"]
    tie_break: Unit = "implicit"
    """Quantity of M_t that orders completions of one model with equal scores."""


AnyScore = Annotated[
    Annotated[ScoredByJudge | ScoredByRewardModel | ScoredByPolicy, Field(discriminator="source")],
    usual("source", "judge"),
]
"""``source`` decides which fields may follow; left out it is ``judge``."""

AnyScoreOrVerdict = Annotated[
    Annotated[
        ScoredByJudge | ScoredByRewardModel | ScoredByPolicy | ScoredByVerifier,
        Field(discriminator="source"),
    ],
    usual("source", "policy"),
]
"""The same with the verifier; left out it is ``policy``."""

ScoreSource = ScoredByJudge | ScoredByRewardModel | ScoredByPolicy | ScoredByVerifier


def scorer_of(score: ScoreSource) -> TextScorerConfig | None:
    """The judge or reward model of a source, if it is either's."""
    match score:
        case ScoredByJudge(judge=judge):
            return judge
        case ScoredByRewardModel(reward_model=model):
            return model
        case ScoredByPolicy() | ScoredByVerifier():
            return None
        case _:
            assert_never(score)


def scorer_section(score: ScoreSource) -> str:
    """The recipe's section of a source's judge or reward model, or else of the source."""
    scorer = scorer_of(score)
    return f"method.score.{scorer.column}" if scorer else "method.score"


def ranking(score: ScoreSource, t: int) -> tuple[LogpQuantity | ScoreQuantity, LogpQuantity | None]:
    """What ranks the completions of M_t, and what orders those of one model that it ranks alike."""
    match score:
        case ScoredByJudge(judge=scorer, tie_break=unit):
            return ScoreQuantity(column=scorer.column), LogpQuantity(unit=unit, model=f"M{t}")
        case ScoredByRewardModel(reward_model=scorer, tie_break=unit):
            return ScoreQuantity(column=scorer.column), LogpQuantity(unit=unit, model=f"M{t}")
        case ScoredByVerifier(tie_break=unit):
            return ScoreQuantity(column=VERIFIER), LogpQuantity(unit=unit, model=f"M{t}")
        case ScoredByPolicy(reward=unit):
            return LogpQuantity(unit=unit, model=f"M{t}"), None
        case _:
            assert_never(score)
