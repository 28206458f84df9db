"""Which two rankings the consistency rate compares at iteration t."""

from __future__ import annotations

from cream.errors import RecipeError
from cream.recipe.comparison import (
    EarlierModels,
    NamedModel,
    PreviousModel,
    ScoreWitness,
    VoteWitness,
    WitnessChoice,
)
from cream.recipe.parts import (
    AnyQuantity,
    Compare,
    Ensemble,
    LogpQuantity,
    ScoreQuantity,
    Unit,
    Votes,
)

SEED_MODEL = "M0"


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
