"""Minimal edits as supervision: an edited completion against its original.

Source: Xu et al., arXiv 2406.02756, whose annotator edits the worse response until it is better.
Masked DPO on the touched tokens alone is ours.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cream.recipe.columns import EDITED
from cream.recipe.editing import Editing
from cream.recipe.methods import MethodSection
from cream.recipe.objectives import Dpo
from cream.recipe.pairing import EditedOriginal
from cream.recipe.parts import MethodParts, ScoreQuantity


class EditsMethod(MethodSection):
    """Pairs that differ only where it matters: a wrong completion and its minimal edit."""

    name: Literal["edits"] = "edits"
    editing: Editing = Editing()
    """Who edits, and which edits count."""
    tokens: Literal["edited", "all"] = "edited"
    """``edited``: DPO on the log-probabilities of touched tokens alone, of policy and reference;
    ``all``: plain DPO on the same pairs."""
    objective: Dpo = Dpo()

    @model_validator(mode="after")
    def _a_term_reads_whole_completions(self) -> EditsMethod:
        if self.tokens == "edited" and self.objective.terms:
            raise ValueError(
                f"objective.{self.objective.terms[0]} reads whole completions, and tokens: edited "
                "trains on what an edit touched; leave it out, or set tokens: all"
            )
        return self

    def parts(self, t: int) -> MethodParts:
        """Rank by whether a completion is an edit; pair each with its original; trust it fully."""
        return MethodParts(
            reward=ScoreQuantity(column=EDITED),
            editing=self.editing,
            tokens=self.tokens,
            pairing=EditedOriginal(),
            objective=self.objective,
        )


METHODS = (EditsMethod,)
