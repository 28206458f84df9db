"""Whose ranking CREAM compares with that of M_t: the previous model, or another witness.

A witness is a column of the score matrix or a combination of columns, so a new source of agreement
is data and not code. `cream.methods.comparison` turns a witness into the quantity it ranks by.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from cream.recipe.base import Section
from cream.recipe.parts import MeanMinusStds


class PreviousModel(Section):
    """M_{t-1}, the paper's choice."""

    kind: Literal["previous"] = "previous"


class NamedModel(Section):
    """One model in every iteration, such as M0."""

    kind: Literal["model"] = "model"
    model: str
    """Column of the matrix: ``M0``, ``M1``, ..., or a model trained beside the loop."""


class EarlierModels(Section):
    """All models before M_t together."""

    kind: Literal["earlier_models"] = "earlier_models"
    combine: Literal["mean", "min"] | MeanMinusStds = "mean"
    """How their rewards become one, per completion."""


class VoteWitness(Section):
    """Share of the group's completions with the same extracted answer."""

    kind: Literal["votes"] = "votes"


class ScoreWitness(Section):
    """A score column, such as the grades of a judge."""

    kind: Literal["score"] = "score"
    column: str
    """Name of the column."""


def _from_word(value: Any) -> Any:
    """``previous``, ``votes`` and ``earlier_models`` are kinds, any other word names a model."""
    if not isinstance(value, str):
        return value
    if value in ("previous", "votes", "earlier_models"):
        return {"kind": value}
    return {"kind": "model", "model": value}


WitnessChoice = Annotated[
    Annotated[
        PreviousModel | NamedModel | EarlierModels | VoteWitness | ScoreWitness,
        Field(discriminator="kind"),
    ],
    BeforeValidator(_from_word),
]
"""``witness: M0`` is short for ``witness: {kind: model, model: M0}``."""
