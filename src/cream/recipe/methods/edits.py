"""Minimal edits as supervision: an edited completion against its original, and token rewards.

Source: Xu et al., arXiv 2406.02756, whose annotator edits the worse response until it is better.
Masked DPO on the touched tokens alone is ours; so is reinforcement without a critic, by labels
or by the implicit reward beside a trained head.
"""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from cream.recipe.columns import EDITED, HEAD, IMPLICIT
from cream.recipe.editing import Editing, TokenHeadConfig
from cream.recipe.methods import MethodSection
from cream.recipe.objectives import Dpo
from cream.recipe.pairing import EditedOriginal
from cream.recipe.parts import MethodParts, ScoreQuantity, TokenAdvantage
from cream.recipe.policy_gradient import TokenRatio


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


class FineGrainedMethod(MethodSection):
    """Policy gradient on fresh samples with a reward of every token."""

    name: Literal["fine_grained"] = "fine_grained"
    reward: Literal["labels", "implicit", "head"] = "labels"
    """``labels``: -1 for a token that an edit replaced, 0 for others; ``head``: what a head that is
    trained on the iteration's edits gives; ``implicit``: log-ratio of M_t against M0, nats, which
    needs no edit."""
    editing: Editing | None = None
    """Who edits, and which edits count, with ``labels`` and ``head``; null: as `edits` does."""
    head: TokenHeadConfig | None = None
    """How the head is trained, with ``reward: head``; null: by the defaults."""
    advantage: TokenAdvantage = TokenAdvantage()
    """How rewards of tokens become advantages of tokens."""
    objective: TokenRatio = TokenRatio()
    """Ratio, clipping, and a divergence in the loss."""

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> FineGrainedMethod:
        if self.reward == IMPLICIT and self.editing is not None:
            raise ValueError("editing would be ignored: the reward is implicit")
        if self.reward != HEAD and self.head is not None:
            raise ValueError(f"head would be ignored: the reward is {self.reward}")
        if self.objective.ratio != "token":
            raise ValueError(
                f"objective.ratio: {self.objective.ratio} is of completions and would weigh all "
                "tokens by the advantage of the first; set it to token"
            )
        return self

    def parts(self, t: int) -> MethodParts:
        """The reward is a column of lists; of a completion it is their sum."""
        return MethodParts(
            reward=ScoreQuantity(column=self.reward),
            editing=None if self.reward == IMPLICIT else self.editing or Editing(),
            head=(self.head or TokenHeadConfig()) if self.reward == HEAD else None,
            advantage=self.advantage,
            objective=self.objective,
        )


METHODS = (EditsMethod, FineGrainedMethod)
