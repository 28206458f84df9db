"""When two texts are one answer, and what several witnesses that answer say together."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float64

from cream.algorithms.pair_consistency import WitnessVerdict


def normalised(text: str) -> str:
    """A text without case and spacing, which do not make an answer another one."""
    return " ".join(text.casefold().split())


def joint_verdict(
    same: Float64[np.ndarray, "witness item"], by: Literal["all", "majority"]
) -> np.ndarray:
    """Whether witnesses give the answer of each item, as codes of `WitnessVerdict`.

    Args:
        same: 1 where a witness gives the very answer, 0 where another one, NaN where it gives none
            or the item has none.
        by: ``all`` of them must give it, or more than half.

    Returns:
        ``AGREES``; else ``DISAGREES`` if those that give none could not have changed it, else
        ``UNSCORED``.
    """
    witnesses = len(same)
    agreeing, silent = (same == 1).sum(axis=0), np.isnan(same).sum(axis=0)
    needed = witnesses if by == "all" else witnesses // 2 + 1
    open_still = np.where(
        agreeing + silent >= needed, WitnessVerdict.UNSCORED, WitnessVerdict.DISAGREES
    )
    return np.where(agreeing >= needed, WitnessVerdict.AGREES, open_still)
