"""Whose ranking is compared with that of M_t: witnesses, and the two rankings that each gives.

A witness is a column of the score matrix or a combination of columns, so a new source of agreement
is data and not code. Also here: the models that are fine-tuned beside M1 only to be asked.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints

from cream.errors import RecipeError
from cream.recipe.base import Section
from cream.recipe.columns import BUILT_IN_COLUMNS
from cream.recipe.parts import (
    Agreement,
    AnyQuantity,
    Compare,
    Ensemble,
    LengthRegularised,
    LogpQuantity,
    MeanMinusStds,
    ScoreQuantity,
    Unit,
    Votes,
)

SEED_MODEL = "M0"


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


def compared_rankings(
    reward: Unit,
    t: int,
    compare: Compare = "like_for_like",
    witness: WitnessChoice | None = None,
) -> tuple[AnyQuantity, AnyQuantity]:
    """The rankings J of M_t and K of the witness (default: M_{t-1}) whose agreement is C.

    Both are the pair-picking reward wherever the witness has one. M0 has no implicit reward (it is
    identically zero), so where M0 is the witness, as at t = 1, something else must be compared:

    - ``like_for_like``: mean log-likelihoods of M_t and of M0;
    - ``reference_code``: the implicit reward of M_t with the mean log-likelihood of M0, as the
      paper's code does. The two share log pi_0 with opposite signs, which biases tau downwards;
    - ``implicit``: refused.

    A likelihood reward needs no such rule: M0 has one like any other model.

    Raises:
        RecipeError: ``compare: implicit`` meets M0, or M_t is its own witness.
    """
    current = LogpQuantity(unit=reward, model=f"M{t}")
    match witness or PreviousModel():
        case PreviousModel():
            return _with_model(current, f"M{t - 1}", compare)
        case NamedModel(model=model):
            if model == current.model:
                raise RecipeError(
                    f"method.witness: {model} would be compared with itself at iteration {t}; "
                    "name another model, or `previous`"
                )
            return _with_model(current, model, compare)
        case EarlierModels(combine=combine):
            # M0 takes part where it has a reward: a constant would only rescale the others.
            first = 1 if reward.startswith("implicit") else 0
            models = [f"M{m}" for m in range(first, t)]
            if not models:
                return _with_model(current, SEED_MODEL, compare)
            members = tuple(LogpQuantity(unit=reward, model=model) for model in models)
            return current, Ensemble(members=members, combine=combine)
        case VoteWitness():
            return current, Votes()
        case ScoreWitness(column=column):
            return current, ScoreQuantity(column=column)


def opposed(first: AnyQuantity, second: AnyQuantity) -> bool:
    """Whether one is taken against M0 and the other is M0's own likelihood (``reference_code``)."""
    return (
        isinstance(first, LogpQuantity)
        and isinstance(second, LogpQuantity)
        and first.unit.startswith("implicit")
        and second.model == first.reference
        and not second.unit.startswith("implicit")
    )


def shared_terms(
    first: AnyQuantity, second: AnyQuantity
) -> tuple[tuple[LogpQuantity, int], tuple[LogpQuantity, int]] | None:
    """The log-probability of one model that both quantities hold, and with which sign.

    Of two implicit rewards both are taken against M0 and hold -log pi_0, each in its unit; where
    `opposed`, the second is log pi_0 itself. None if they share no model.
    """
    one, other = _taken_against(first), _taken_against(second)
    if one is not None and other is not None and one.model == other.model:
        return (one, -1), (other, -1)
    if one is not None and isinstance(second, LogpQuantity) and opposed(first, second):
        return (one, -1), (second, 1)
    return None


def _taken_against(quantity: AnyQuantity) -> LogpQuantity | None:
    """What a quantity subtracts from something else."""
    match quantity:
        case LogpQuantity(unit="implicit", reference=model):
            return LogpQuantity(unit="likelihood", model=model)
        case LogpQuantity(unit="implicit_per_token", reference=model):
            return LogpQuantity(unit="mean_likelihood", model=model)
        case LengthRegularised(base=base):
            return _taken_against(base)
        case Ensemble(members=members):  # any combination shifts with what all members subtract
            first, *others = [_taken_against(member) for member in members]
            return first if all(other == first for other in others) else None
        case _:
            return None


def reported_agreement(reward: Unit, t: int) -> Agreement:
    """C of M_t and M_{t-1} by a quantity, for methods that report it and do not use it."""
    first, second = compared_rankings(reward, t)
    return Agreement(first=first, second=second)


def _with_model(
    current: LogpQuantity, model: str, compare: Compare
) -> tuple[LogpQuantity, LogpQuantity]:
    if model != SEED_MODEL or not current.unit.startswith("implicit"):
        return current, LogpQuantity(unit=current.unit, model=model)
    if compare == "implicit":
        raise RecipeError(
            f"method.compare: implicit cannot compare {current.model} with M0, whose implicit "
            "reward is zero everywhere (all ties); set compare: like_for_like, or another witness"
        )
    seed = LogpQuantity(unit="mean_likelihood", model=SEED_MODEL)
    if compare == "reference_code":
        return current, seed
    return LogpQuantity(unit="mean_likelihood", model=current.model), seed


RESERVED = ("policy", "calibration", *BUILT_IN_COLUMNS)
"""Names of something else: other parts of the seed examples, and score columns."""


class WitnessConfig(Section):
    """A second M1: M0 fine-tuned like M1, on another part of the seed examples."""

    seed_share: float = Field(gt=0.0, lt=1.0)
    """Share of the seed examples that this witness gets and M1 does not, in (0, 1)."""


class CalibrationConfig(Section):
    """Seed examples that no model is fine-tuned on.

    M1 answers their prompts; how often pairs of a seed completion and a wrong answer are in the
    right order, where two rankings agree and where not, tells what the agreement is worth.
    """

    seed_share: float = Field(default=0.2, gt=0, lt=1)
    """Share of the seed examples that is held out for this."""


def _leave_some_to_m1(witnesses: dict[str, WitnessConfig]) -> dict[str, WitnessConfig]:
    taken = [name for name in witnesses if name in RESERVED]
    if taken:
        raise ValueError(f"a witness cannot be named {taken[0]!r}, which names something else")
    total = sum(witness.seed_share for witness in witnesses.values())
    if total >= 1:
        raise ValueError(
            f"the shares of the witnesses add up to {total:g} and leave none to M1; "
            "lower seed_share"
        )
    return witnesses


WitnessName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]*$")]
"""Lower case, so that it is never mistaken for M0, M1, ..."""

Witnesses = Annotated[dict[WitnessName, WitnessConfig], AfterValidator(_leave_some_to_m1)]
