"""Minimal edits in a recipe: who edits, which edits count, and how a head learns from them.

What is computed is in `cream.algorithms.alignment`, `cream.stages.edit` and
`cream.training.token_head`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from cream.recipe.base import Section, usual
from cream.recipe.model import NonBlank


class VerifierEditor(Section):
    """Writes the reference answer where the verifier found another one; no model runs."""

    by: Literal["verifier"] = "verifier"


class FileEditor(Section):
    """A person's edits, of the completions that `cream export edits` wrote."""

    by: Literal["file"] = "file"
    path: NonBlank
    """JSONL with ``completion_id``, ``original`` and ``edited`` (null: left alone)."""


class ModelEditor(Section):
    """M_t is asked to correct its own wrong answers, greedily; it is not told the right one."""

    by: Literal["model"] = "model"


Editor = Annotated[
    Annotated[VerifierEditor | FileEditor | ModelEditor, Field(discriminator="by")],
    usual("by", "verifier"),
]
"""``by`` left out is ``verifier``."""


class Editing(Section):
    """Wrong completions of M_t are edited as little as possible until they are right."""

    editor: Editor = VerifierEditor()
    """Who edits. Right or wrong is what the verifier says; a person's edit needs no verdict."""
    max_share: float = Field(default=0.5, gt=0, le=1)
    """Largest share of touched tokens, of both texts together, that is an edit and no rewrite."""
    align: Literal["char", "word"] = "char"
    """What is aligned to find what changed, before it is projected to tokens."""
    insertion_blame: Literal["next", "none"] = "next"
    """Which token of the original answers for something that only had to be added: the one that
    stands in its place, or none."""


class TokenHeadConfig(Section):
    """A reward of every token, learnt from edits: a linear map of M0's state after the token."""

    loss: Literal["token_ce", "bt_edit", "bt_mean"] = "token_ce"
    """What is minimised over pairs of an edit and its original: cross-entropy of single tokens, or
    Bradley and Terry on mean rewards, over touched tokens or over all (arXiv 2406.02756)."""
    centre: bool = True
    """Whether states are taken less their mean, beside being divided by their deviation."""
    steps: int = Field(default=150, ge=1)
    """Of Adam, each on all pairs."""
    learning_rate: float = Field(default=0.01, gt=0)
    """Of Adam, constant."""

    @property
    def graded(self) -> bool:
        """Whether what is learnt is a logit, of which the reward is 2 p - 1."""
        return self.loss == "token_ce"

    def build(self) -> Callable[..., Any]:
        """The loss."""
        from cream.algorithms import token_rewards

        return {
            "token_ce": token_rewards.token_ce,
            "bt_edit": token_rewards.bt_edit,
            "bt_mean": token_rewards.bt_mean,
        }[self.loss]
