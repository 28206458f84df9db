"""Models fine-tuned beside M1 on seed examples of their own, to be asked for their ranking."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from cream.recipe.base import Section

RESERVED = ("policy", "calibration", "verifier", "judge", "reward_model", "from_data")
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
