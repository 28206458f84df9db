"""Options of temporal self-rewarding."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cream.recipe.base import Section
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.pairing import BestWorst
from cream.recipe.parts import Unit
from cream.recipe.scorers import AnyJudge, JudgeConfig, RewardModelConfig
from cream.recipe.unions import usual


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


class TemporalMethod(Section):
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
