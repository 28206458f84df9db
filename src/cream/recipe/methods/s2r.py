"""S2R: solve, check, solve again in one completion, trained by policy gradient.

Source: Ma et al., arXiv 2502.12853. The outcome level is `rloo` on the last answer of a trajectory.
"""

from __future__ import annotations

from typing import Literal

from cream.recipe.columns import LAST_ANSWER
from cream.recipe.methods import MethodSection
from cream.recipe.parts import MethodParts, ScoreQuantity
from cream.recipe.policy_gradient import PolicyGradient
from cream.recipe.trajectory import AnyCredit, Phrases, ProcessCredit, Trajectory


class S2rMethod(MethodSection):
    """Rewards of answers and verdicts within a completion; M1 must know the phrases already."""

    name: Literal["s2r"] = "s2r"
    phrases: Phrases = Phrases()
    """By which completions are cut into solutions and checks."""
    credit: AnyCredit = ProcessCredit()
    """``level: process`` rewards every solution and every check, ``level: outcome`` the last
    answer."""
    objective: PolicyGradient = PolicyGradient()
    """Ratio (of an action, or of the completion at the outcome level), clipping, and a divergence
    in the loss."""

    def parts(self, t: int) -> MethodParts:
        """The reward of a completion is its last answer; the same in every iteration."""
        return MethodParts(
            reward=ScoreQuantity(column=LAST_ANSWER),
            advantage=self.credit.advantage,
            objective=self.objective,
            trajectory=Trajectory(phrases=self.phrases, credit=self.credit),
        )


METHODS = (S2rMethod,)
