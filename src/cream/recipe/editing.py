"""Minimal edits in a recipe: who edits what the policy said, and which edits count.

What is computed is in `cream.algorithms.alignment` and `cream.stages.edit`.
"""

from __future__ import annotations

from typing import Annotated, Literal

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
