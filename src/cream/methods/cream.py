"""CREAM: self-rewarding whose pairs are trusted as far as successive models rank alike.

Source: Wang et al., arXiv 2410.12735. J is the ranking by M_t, K by M_{t-1}; C is the mean of
(tau + 1) / 2 over prompts; the loss is C * DPO(chosen > rejected) + (1 - C) * DPO(reversed).
The three methods differ in what C is a property of: the set, the prompt, or the pair.
"""

from __future__ import annotations

from cream.methods.comparison import compared_rankings
from cream.recipe.methods import CreamMethod, CreamPairMethod, CreamSampleMethod
from cream.recipe.parts import Agreement, Level, LogpQuantity, MethodParts, Statistic, TwoGaussian


def cream_parts(method: CreamMethod, t: int) -> MethodParts:
    """Parts of iteration t. See `cream.methods.comparison` for what C compares."""
    return _parts(method, t, method.level, method.statistic)


def cream_sample_parts(method: CreamSampleMethod, t: int) -> MethodParts:
    """Parts of iteration t: each prompt has its own C."""
    return _parts(method, t, method.level)


def cream_pair_parts(method: CreamPairMethod, t: int) -> MethodParts:
    """Parts of iteration t: C is that of the trained pair."""
    return _parts(method, t, method.probability)


def _parts(
    method: CreamMethod | CreamSampleMethod | CreamPairMethod,
    t: int,
    level: Level | TwoGaussian,
    statistic: Statistic = "kendall",
) -> MethodParts:
    first, second = compared_rankings(method.reward, t, method.compare, method.witness)
    return MethodParts(
        reward=LogpQuantity(unit=method.reward, model=f"M{t}"),
        agreement=Agreement(
            first=first,
            second=second,
            statistic=statistic,
            level=level,
            below_half=method.below_half,
            filter=method.filter,
        ),
        pairing=method.pairing,
        objective=method.objective,
    )
