"""Which two rankings the consistency rate compares at iteration t."""

from __future__ import annotations

from cream.recipe.parts import Compare, LogpQuantity, Unit


def compared_rankings(
    reward: Unit, t: int, compare: Compare = "like_for_like"
) -> tuple[LogpQuantity, LogpQuantity]:
    """The rankings J of M_t and K of M_{t-1} whose agreement is C.

    From t = 2 on both are the pair-picking reward. At t = 1 the previous model is M0, whose
    implicit reward is identically zero, so something else must be compared:

    - ``like_for_like``: mean log-likelihoods of M1 and of M0;
    - ``reference_code``: the implicit reward of M1 with the mean log-likelihood of M0, as the
      paper's code does. The two share log pi_0 with opposite signs, which biases tau downwards.

    A likelihood reward needs no such rule: M0 has one like any other model.
    """
    current = LogpQuantity(unit=reward, model=f"M{t}")
    if t > 1 or not reward.startswith("implicit"):
        return current, LogpQuantity(unit=reward, model=f"M{t - 1}")
    previous = LogpQuantity(unit="mean_likelihood", model="M0")
    if compare == "reference_code":
        return current, previous
    return LogpQuantity(unit="mean_likelihood", model="M1"), previous
