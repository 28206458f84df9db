"""Optimism (SELM): answers typical of the reference policy are made less likely.

Source: Zhang et al., arXiv 2405.19332, eq. 4.2, as their code has it (commit 0ba546a): beside a
preference loss stands ``alpha * beta * D`` with ``D = log pi(y|x) - log pi_ref(y|x)``, a sum over
the tokens of one answer y that the policy gave before training. The sign is plus: the expectation
of D under the reference is -KL(reference || policy), so the term rewards moving away from it, and
has no bound. The paper's algorithm 1 writes alpha where eq. 4.2 and the code have alpha beta.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cream.algorithms.objective import (
    Needs,
    Objective,
    ObjectiveInputs,
    PerExample,
    reference_of,
)

ANSWER = "optimism"
"""Role of the answer y, where it is neither completion of the pair."""
IS_CHOSEN, IS_REJECTED = "optimism_is_chosen", "optimism_is_rejected"
"""Columns: 1 where y is that completion of the pair, which then stands for it, else 0."""
LARGE_SHARE = 0.5
"""Share of the loss that the term is warned about, late in training."""


def optimism(
    log_ratio: Float[Tensor, " pair"],
    *,
    weight: float | Float[Tensor, " pair"],
    floor_nats: float | None = None,
) -> Float[Tensor, " pair"]:
    """``weight * D``, constant where D has fallen below ``-floor_nats``.

    ``d/dD = weight`` above the floor, 0 below it.

    Args:
        log_ratio: D, log pi(y) - log pi_ref(y), nats.
        weight: alpha beta (the paper's eq. 4.2), or alpha (its algorithm 1, and XPO), >= 0.
        floor_nats: Where the term ends, > 0; None: nowhere.
    """
    if floor_nats is not None:
        log_ratio = log_ratio.clamp_min(-floor_nats)
    return weight * log_ratio


def optimism_term(
    fingerprint: str,
    beside: Objective,
    *,
    weight: float,
    length_normalised: bool = False,
    floor_nats: float | None = None,
    by_consistency: bool = False,
) -> Objective:
    """`optimism` as a term beside a preference.

    An example without an answer gets 0. Where y is a completion of the pair, that sequence is read
    in its place and costs nothing.

    Args:
        fingerprint: What the term computes.
        beside: The preference; its loss is read for ``optimism/share_of_loss`` alone.
        weight: See `optimism`.
        length_normalised: D per token of y, so that long answers are not pushed harder.
        floor_nats: See `optimism`; of D as a sum.
        by_consistency: The weight times 2 (1 - C), for C >= 1/2: none where rankings agree.
    """

    def known(inputs: ObjectiveInputs) -> Bool[Tensor, " example"]:
        own = inputs[ANSWER].present
        return own | (inputs.columns[IS_CHOSEN] + inputs.columns[IS_REJECTED] > 0)

    def answers(inputs: ObjectiveInputs) -> tuple[PerExample, PerExample]:
        """D and the length of y; both of no meaning where there is none."""
        apart = inputs[ANSWER].present.to(inputs.columns[IS_CHOSEN].dtype)
        places = {
            ANSWER: apart,
            "chosen": (1 - apart) * inputs.columns[IS_CHOSEN],
            "rejected": (1 - apart) * inputs.columns[IS_REJECTED],
        }
        ratio, length = torch.zeros_like(apart), torch.zeros_like(apart)
        for role, there in places.items():
            one = inputs[role]
            ratio = torch.where(there > 0, one.logps - reference_of(one), ratio)
            length = torch.where(there > 0, one.lengths, length)
        return ratio, length

    def loss(inputs: ObjectiveInputs) -> PerExample:
        ratio, length = answers(inputs)
        term = optimism(ratio, weight=weight, floor_nats=floor_nats)
        if length_normalised:
            term = term / length.clamp_min(1)
        if by_consistency:
            term = term * (2 * (1 - inputs.columns["consistency"])).clamp(0, 1)
        return torch.where(known(inputs), term, 0)

    def metrics(inputs: ObjectiveInputs) -> Mapping[str, PerExample]:
        there, term = known(inputs), loss(inputs).detach()
        found = {
            "optimism/log_ratio": answers(inputs)[0].detach(),
            "optimism/term": term,
            "optimism/share_of_loss": term.abs()
            / (term.abs() + beside.loss(inputs).detach().abs()).clamp_min(1e-12),
            "optimism/is_chosen": inputs.columns[IS_CHOSEN],
            "optimism/is_rejected": inputs.columns[IS_REJECTED],
        }
        absent = torch.full_like(term, math.nan)
        return {name: torch.where(there, value, absent) for name, value in found.items()}

    sides = ("chosen", "rejected")
    columns = (IS_CHOSEN, IS_REJECTED, *(("consistency",) if by_consistency else ()))
    needs = Needs(
        (*sides, ANSWER),
        optional=("rejected", ANSWER),
        references=(*sides, ANSWER),
        columns=columns,
    )
    return Objective(ANSWER, fingerprint, needs, loss, metrics=metrics, warnings=large_share)


def large_share(metrics: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """A sentence if the term is more than half of the loss over the last third of the steps."""
    last = metrics[-max(1, len(metrics) // 3) :]
    known = [m["optimism/share_of_loss"] for m in last if "optimism/share_of_loss" in m]
    share = sum(known) / len(known) if known else 0.0
    if not share > LARGE_SHARE:
        return ()
    return (
        f"the optimism term is {100 * share:.0f} % of the loss: training moves away from the "
        "reference rather than towards the pairs. Lower objective.optimism.alpha, or give a "
        "floor_nats.",
    )
