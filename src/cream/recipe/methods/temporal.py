"""Temporal self-rewarding: worst of the past against best of the future.

Source: Wang et al., arXiv 2508.06026. Their M0 is the model after supervised fine-tuning, our M1.
"""

from __future__ import annotations

from typing import Literal

from cream.recipe.methods import MethodSection
from cream.recipe.objectives import Dpo, PlainObjective
from cream.recipe.pairing import BestWorst
from cream.recipe.parts import MethodParts, PastAndFuture
from cream.recipe.score_source import AnyScore, ScoredByJudge, ranking, scorer_of, scorer_section
from cream.recipe.scorers import TextScorerConfig


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
        return scorer_of(self.score)

    @property
    def scorer_section(self) -> str:
        """Inside the score."""
        return scorer_section(self.score)

    def parts(self, t: int) -> MethodParts:
        """Parts of iteration t; those of its draft, which trains the future model, follow.

        No C is measured: the groups hold completions of three models.
        """
        reward, tie_break = ranking(self.score, t)
        return MethodParts(
            reward=reward,
            tie_break=tie_break,
            others=PastAndFuture(past={"sft": "M1", "seed": "M0"}[self.past], future=f"F{t + 1}"),
            pairing=self.pairing,
            objective=self.objective,
        )


METHODS = (TemporalMethod,)
