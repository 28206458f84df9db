"""Options of SPIN."""

from __future__ import annotations

from typing import Literal

from cream.recipe.base import Section
from cream.recipe.objectives import Dpo
from cream.recipe.pairing import AllPairs, BestWorst


class SpinMethod(Section):
    """SPIN (arXiv 2401.01335): the seed completion against what M_t itself says to its prompt."""

    name: Literal["spin"] = "spin"
    rejected: Literal["one", "all"] = "one"
    """How many distinct completions of M_t a seed completion is paired with. The authors: one."""
    truncated: Literal["keep", "drop"] = "drop"
    """What to do with completions cut off at the token limit. The authors' code: ``keep``."""
    objective: Dpo = Dpo()

    @property
    def pairing(self) -> BestWorst | AllPairs:
        """The rule that does it.

        Rewards are 1 for the data and 0 for the policy, so of two completions of one origin neither
        is better.
        """
        rule = BestWorst if self.rejected == "one" else AllPairs
        return rule(truncated=self.truncated)
