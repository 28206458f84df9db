"""Models beside the policy: witnesses that answer or learn along, the past and the future one."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from cream.recipe.base import Section
from cream.recipe.columns import answer_column

SameAnswer = Literal["ids", "text", "extracted"]
"""When two completions are one answer. ``ids``: the same tokens; ``text``: the same text but for
case and spacing; ``extracted``: the same answer by the prompt's verifier."""


def model_at(t: int, learner: str | None = None) -> str:
    """Name of the model that iteration t starts from: M_t, or W_t of a witness that learns along.

    W_1 has the witness' own name, W_2 is ``twin-2``; no witness has a hyphen in its name. Both
    begin with M0 at t = 0.
    """
    if learner is None or t == 0:
        return f"M{t}"
    return learner if t == 1 else f"{learner}-{t}"


class SameAnswers(Section):
    """Witnesses that answer the prompts themselves; only prompts whose answer they share count."""

    witnesses: tuple[str, ...] = Field(min_length=1)
    """Models of the run, by name."""
    same: SameAnswer
    """What must be equal."""
    by: Literal["all", "majority"] = "all"
    """How many witnesses must give the answer: all, or more than half."""

    @property
    def columns(self) -> dict[str, str]:
        """Witness by the score column that says which completions are its answer."""
        return {answer_column(name): name for name in self.witnesses}


class PastAndFuture(Section):
    """Models that answer the prompts of an iteration beside M_t, and what for (2508.06026).

    Chosen is the best completion of M_t and the future model, rejected the worst of M_t and the
    past model.
    """

    past: str
    """Model whose completions may be rejected."""
    future: str | None = None
    """Model whose completions may be chosen; it is trained in this iteration, on the pairs of its
    draft. None in the draft itself."""
