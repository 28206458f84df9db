"""CREAM: self-rewarding whose pairs are trusted as far as successive models rank alike.

Source: Wang et al., arXiv 2410.12735. J is the ranking by M_t, K by M_{t-1}; C is the mean of
(tau + 1) / 2 over prompts; the loss is C * DPO(chosen > rejected) + (1 - C) * DPO(reversed).
"""

from __future__ import annotations

from cream.recipe.methods import CreamMethod
from cream.recipe.parts import Agreement, LogpQuantity, MethodParts


def cream_parts(method: CreamMethod, t: int) -> MethodParts:
    """Parts of iteration t. See `compared_rankings` for what C compares."""
    first, second = compared_rankings(method, t)
    return MethodParts(
        reward=LogpQuantity(unit=method.reward, model=f"M{t}"),
        agreement=Agreement(
            first=first,
            second=second,
            statistic=method.statistic,
            level=method.level,
            below_half=method.below_half,
        ),
        pairing=method.pairing,
        objective=method.objective,
    )


def compared_rankings(method: CreamMethod, t: int) -> tuple[LogpQuantity, LogpQuantity]:
    """The two rankings whose agreement is C, of M_t and of M_{t-1}.

    From t = 2 on both are the pair-picking reward. At t = 1 the previous model is M0, whose
    implicit reward is identically zero, so something else must be compared:

    - ``like_for_like`` compares mean log-likelihoods of M1 and of M0;
    - ``reference_code`` compares the reward of M1 with the mean log-likelihood of M0, as the
      paper's code does. The two share log pi_0 with opposite signs, which biases tau downwards.

    A likelihood reward needs no such rule: M0 has one like any other model.
    """
    current = LogpQuantity(unit=method.reward, model=f"M{t}")
    if t > 1 or not method.reward.startswith("implicit"):
        return current, LogpQuantity(unit=method.reward, model=f"M{t - 1}")
    previous = LogpQuantity(unit="mean_likelihood", model="M0")
    if method.compare == "reference_code":
        return current, previous
    return LogpQuantity(unit="mean_likelihood", model="M1"), previous
