"""SPIN: self-play fine-tuning, the seed completions against the policy's own.

Source: Chen et al., arXiv 2401.01335 (``spin_loss`` in `uclaml/SPIN` with its default, the logistic
loss). That is DPO with reference M_t, chosen = the seed completion, rejected = a completion of M_t.
"""

from __future__ import annotations

from cream.recipe.methods.spin import SpinMethod
from cream.recipe.parts import MethodParts, ScoreQuantity
from cream.runs.tables import FROM_DATA


def spin_parts(method: SpinMethod, t: int) -> MethodParts:
    """Parts of every iteration: rank by where a completion comes from, trust it fully.

    There is no tie-break among the completions of M_t: which one is rejected is decided by the hash
    of its ids, that is, not by its quality.
    """
    return MethodParts(
        reward=ScoreQuantity(column=FROM_DATA),
        prompts="seed",
        pairing=method.pairing,
        objective=method.objective,
    )
