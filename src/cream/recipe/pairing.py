"""Which completions of a group become pairs: one class per rule, each with its own fields only.

Pure data; the rules themselves are in `cream.algorithms.pairing`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, assert_never

from pydantic import Field

from cream.recipe.base import Section, usual


class Penalise(Section):
    """Subtract a penalty from the reward of completions cut off at the token limit."""

    penalty: float = Field(gt=0.0)
    """In the unit of the reward (nats for log-probability rewards), > 0."""


class PairingRule(Section):
    """What every rule has."""

    min_gap: float = Field(default=0.0, ge=0.0)
    """Smallest difference between chosen and rejected, in the unit of the reward. Differences
    within the noise floor of scoring are ties whatever this says."""
    truncated: Literal["keep", "drop"] | Penalise = "drop"
    """What to do with completions cut off at the token limit: pair them like others, leave them
    out, or lower their reward (``{penalty: 5.0}``)."""
    unanimous: Literal["drop", "nll"] = "drop"
    """What to do with a group whose completions all say the same, so that nothing can be rejected:
    leave it out, or train on what it says by the objective's likelihood term alone. The same is
    the same tokens; under a reward by votes, the same extracted answer."""


class BestWorst(PairingRule):
    """Chosen is the best completion of the group, rejected the worst (the paper's rule)."""

    rule: Literal["best_worst"] = "best_worst"


class BestRandom(PairingRule):
    """Chosen is the best completion, rejected a random one that is clearly below it."""

    rule: Literal["best_random"] = "best_random"


class AllPairs(PairingRule):
    """Every two completions with a sufficient gap."""

    rule: Literal["all_pairs"] = "all_pairs"


class TopBottom(PairingRule):
    """Each of the best ``k`` with each of the worst ``k``."""

    rule: Literal["top_bottom"] = "top_bottom"
    k: int = Field(ge=1)
    """Completions taken from each end; 1 is ``best_worst``."""


class MajorityVote(PairingRule):
    """The most voted answer with the least voted one (ScPO, arXiv 2411.04109)."""

    rule: Literal["majority_vote"] = "majority_vote"
    min_share: float = Field(default=0.5, ge=0.0, le=1.0)
    """Smallest share of the group's completions that the most voted answer must have."""


class RandomPair(Section):
    """Two distinct completions in a drawn order, without a label."""

    min_gap: ClassVar[float] = 0.0
    unanimous: ClassVar[Literal["drop"]] = "drop"

    rule: Literal["random"] = "random"
    truncated: Literal["keep", "drop"] = "drop"
    """What to do with completions cut off at the token limit: pair them like others, or leave them
    out."""


class EditedOriginal(Section):
    """Every edited completion with the one that it was made of."""

    min_gap: ClassVar[float] = 0.0
    unanimous: ClassVar[Literal["drop"]] = "drop"
    truncated: ClassVar[Literal["keep"]] = "keep"

    rule: Literal["edited_original"] = "edited_original"


PairingConfig = Annotated[
    Annotated[
        BestWorst | BestRandom | AllPairs | TopBottom | MajorityVote | RandomPair | EditedOriginal,
        Field(discriminator="rule"),
    ],
    usual("rule", "best_worst"),
]
"""``rule`` decides which fields may follow; left out it is ``best_worst``."""

RewardPairing = Annotated[
    Annotated[BestWorst | BestRandom | AllPairs | TopBottom, Field(discriminator="rule")],
    usual("rule", "best_worst"),
]
"""The rules for rewards that are no votes."""


def most_pairs(rule: PairingConfig, group: int) -> int:
    """The most pairs that a rule makes of one prompt with `group` completions."""
    match rule:
        case BestWorst() | BestRandom() | MajorityVote() | RandomPair():
            return 1
        case EditedOriginal():
            return group
        case AllPairs():
            return group * (group - 1) // 2
        case TopBottom(k=k):
            return min(k * k, group * (group - 1) // 2)
        case _:
            assert_never(rule)
