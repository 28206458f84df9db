"""The objectives that training takes: a loss over pairs with its metrics, and terms beside it.

The formulas are in `cream.algorithms.objectives`; here they are given what they read of an example
(`cream.algorithms.objective`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cream.algorithms.objective import (
    Needs,
    Objective,
    ObjectiveInputs,
    PerExample,
    SequenceInputs,
    reference_of,
    start_of,
)
from cream.algorithms.objectives import (
    PairLogps,
    chosen_nll,
    preference_metrics,
    token_kl_k3,
    trust,
)

CHOSEN_FALL_NATS = 1.0
"""Mean fall of log p(chosen) against the loss reference, late in training, that is warned about."""


@dataclass(frozen=True, slots=True)
class PairInputs:
    """The inputs of an objective over pairs, under the names of the formulas above."""

    chosen: SequenceInputs
    rejected: SequenceInputs
    policy: PairLogps
    reference: PairLogps
    consistency: Float[Tensor, " pair"]

    @property
    def start_kl(self) -> tuple[Float[Tensor, " pair"], Float[Tensor, " pair"]]:
        """`token_kl_k3` of either side against the policy at the start of the stage."""
        chosen, rejected = (
            token_kl_k3(side.token_logps, start_of(side), side.mask)
            for side in (self.chosen, self.rejected)
        )
        return chosen, rejected


PairLoss = Callable[[PairInputs], PerExample]
PAIR = ("chosen", "rejected")


def pair_inputs(inputs: ObjectiveInputs) -> PairInputs:
    """Look at the examples of a micro-batch as pairs."""
    chosen, rejected = inputs["chosen"], inputs["rejected"]
    return PairInputs(
        chosen,
        rejected,
        PairLogps(chosen.logps, rejected.logps),
        PairLogps(reference_of(chosen), reference_of(rejected)),
        inputs.columns["consistency"],
    )


def preference(
    name: str, fingerprint: str, loss: PairLoss, *, beta: float, start_logps: bool = False
) -> Objective:
    """An objective over pairs, with the metrics that TRL logs.

    An example without a rejected sequence has no preference: its loss is 0 here, and only a term
    beside it, such as `constant_nll`, trains on it.

    Args:
        name: Shown and recorded.
        fingerprint: What the loss computes.
        loss: One value per pair.
        beta: Scale of the reported rewards.
        start_logps: Whether the loss reads `PairInputs.start_kl`.
    """

    def metrics(inputs: ObjectiveInputs) -> Mapping[str, PerExample]:
        paired = inputs["rejected"].present
        pairs = pair_inputs(inputs.examples(paired))
        found = preference_metrics(pairs.policy, pairs.reference, beta=beta)
        return {key: _spread(value, paired, math.nan) for key, value in found.items()}

    def of_pairs(inputs: ObjectiveInputs) -> PerExample:
        paired = inputs["rejected"].present
        if paired.all():
            return loss(pair_inputs(inputs))
        return _spread(loss(pair_inputs(inputs.examples(paired))), paired, 0.0)

    return Objective(
        name,
        fingerprint,
        Needs(
            PAIR,
            optional=("rejected",),
            references=PAIR,
            columns=("consistency",),
            start_logps=start_logps,
        ),
        of_pairs,
        metrics=metrics,
        warnings=lambda metrics: chosen_fall(metrics, beta=beta),
    )


def constant_nll(weight: float) -> Objective:
    """A term beside a preference: `chosen_nll`, with one weight > 0 for all pairs."""
    return _nll(f"{weight!r} nll", lambda pairs: torch.full_like(pairs.consistency, weight))


def trusted_nll(weight: float, trained: Callable[[PerExample], PerExample]) -> Objective:
    """The same, weighted by ``weight * max(0, 2C - 1)`` with the C that a pair is trained with."""
    name = f"{weight!r} (2C - 1) nll"
    return _nll(name, lambda pairs: weight * trust(trained(pairs.consistency)))


def _nll(fingerprint: str, weight: PairLoss) -> Objective:
    def loss(inputs: ObjectiveInputs) -> PerExample:
        pairs = pair_inputs(inputs)
        return weight(pairs) * chosen_nll(pairs.policy, pairs.chosen.lengths)

    needs = Needs(PAIR, optional=("rejected",), references=PAIR, columns=("consistency",))
    return Objective("nll", fingerprint, needs, loss)


def chosen_likelihood(fingerprint: str) -> Objective:
    """The likelihood of the chosen completion alone, per token; rejected ones are not read.

    It is `constant_nll` of weight 1 without a preference beside it: fine-tuning on what was chosen,
    each example weighing the same however long it is. Reported is its value before a step.
    """

    def loss(inputs: ObjectiveInputs) -> PerExample:
        return -inputs["chosen"].logps / inputs["chosen"].lengths

    return Objective(
        "nll",
        fingerprint,
        Needs(("chosen",)),
        loss,
        metrics=lambda inputs: {"logps/chosen": inputs["chosen"].logps.detach()},
    )


def _spread(
    values: Float[Tensor, " some"], at: Bool[Tensor, " example"], absent: float
) -> PerExample:
    """Values of some examples laid out over all of them."""
    return torch.full_like(at, absent, dtype=values.dtype).masked_scatter(at, values)


def chosen_fall(metrics: Sequence[Mapping[str, float]], *, beta: float) -> tuple[str, ...]:
    """A sentence if log p(chosen) fell over the last third of the steps, else nothing."""
    last = metrics[-max(1, len(metrics) // 3) :]
    known = [m["rewards/chosen"] for m in last if "rewards/chosen" in m]
    if not known:
        return ()
    change = sum(known) / len(known) / beta
    if change > -CHOSEN_FALL_NATS:
        return ()
    return (
        f"log p(chosen) fell by {-change:.1f} nats against the loss reference: the objective "
        "lowers both completions. Lower the learning rate, or add an NLL term.",
    )


def supervised() -> Objective:
    """Maximise the likelihood of ``completion``: the mean over all loss tokens of a step.

    A long completion weighs more than a short one, as in transformers' Trainer; it is not the mean
    of per-example means.
    """
    return Objective(
        "sft",
        "negative log-likelihood",
        Needs(("completion",)),
        lambda inputs: -inputs["completion"].logps,
        normalised_by="token",
    )
