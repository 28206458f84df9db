"""SPIN: self-play fine-tuning, the seed completions against the policy's own.

Source: Chen et al., arXiv 2401.01335 (``spin_loss`` in `uclaml/SPIN` with its default, the logistic
loss). That is DPO with reference M_t, chosen = the seed completion, rejected = a completion of M_t.
"""

from __future__ import annotations

from typing import Literal

from cream.recipe.columns import FROM_DATA
from cream.recipe.methods import MethodSection
from cream.recipe.objectives import Dpo
from cream.recipe.pairing import AllPairs, BestWorst
from cream.recipe.parts import MethodParts, ScoreQuantity


class SpinMethod(MethodSection):
    """SPIN (arXiv 2401.01335): the seed completion against what M_t itself says to its prompt."""

    name: Literal["spin"] = "spin"
    rejected: Literal["one", "all"] = "one"
    """How many distinct completions of M_t a seed completion is paired with. The authors: one."""
    truncated: Literal["keep", "drop"] = "drop"
    """What to do with completions cut off at the token limit. The authors' code: ``keep``."""
    objective: Dpo = Dpo()

    def parts(self, t: int) -> MethodParts:
        """Rank by where a completion comes from, 1 for the data and 0 for M_t; trust it fully.

        So of two completions of one origin neither is better. There is no tie-break among those of
        M_t: which one is rejected is decided by the hash of its ids, that is, not by its quality.
        """
        rule = BestWorst if self.rejected == "one" else AllPairs
        return MethodParts(
            reward=ScoreQuantity(column=FROM_DATA),
            prompts="seed",
            pairing=rule(truncated=self.truncated),
            objective=self.objective,
        )


METHODS = (SpinMethod,)
