"""From the recipe's objective to the function that training differentiates: one dispatch, by type.

An `Objective` maps a batch of pairs to one loss per pair. It receives token log-probabilities
beside their sums, and named per-pair columns, so that objectives which judge inside the step or
own parameters fit the same call. It neither reduces nor reports; metrics are
`cream.algorithms.objectives.preference_metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import assert_never

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from cream.algorithms import objectives as losses
from cream.algorithms.objectives import PairLogps
from cream.recipe.objectives import (
    ConservativeDpo,
    ConsistencyNll,
    ConstantNll,
    Cream,
    Dpo,
    Ipo,
    LengthNormalisedDpo,
    LengthNormalisedIpo,
    Nll,
    ObjectiveConfig,
    RobustDpo,
    SimPo,
    SrlmKl,
    WeightedDpo,
)


@dataclass(frozen=True, slots=True)
class TokenLogps:
    """Token log-probabilities of one side of the pairs, 0 beyond the end of each completion."""

    values: Float[Tensor, "pair token"]
    mask: Bool[Tensor, "pair token"]

    @property
    def sums(self) -> Float[Tensor, " pair"]:
        """Sum over the tokens of each completion."""
        return self.values.sum(-1)

    @property
    def lengths(self) -> Float[Tensor, " pair"]:
        """Tokens of each completion."""
        return self.mask.sum(-1).to(self.values.dtype)


@dataclass(frozen=True, slots=True)
class ObjectiveInputs:
    """What an objective may look at, for the pairs of one micro-batch."""

    chosen: TokenLogps
    rejected: TokenLogps
    reference: PairLogps
    """Sums under the loss reference, from the score matrix."""
    consistency: Float[Tensor, " pair"]
    start_chosen: TokenLogps | None = None
    """The same tokens under the policy at the start of the stage, if the objective needs them."""
    start_rejected: TokenLogps | None = None
    columns: Mapping[str, Tensor] = field(default_factory=dict)
    """Further per-pair values, by name."""

    @property
    def policy(self) -> PairLogps:
        """Sums under the model in training."""
        return PairLogps(self.chosen.sums, self.rejected.sums)


PairLoss = Callable[[ObjectiveInputs], Float[Tensor, " pair"]]


@dataclass(frozen=True, slots=True)
class Objective:
    """A loss per pair, with what it needs beyond the policy's log-probabilities."""

    loss: PairLoss
    beta: float
    """Scale of the reported rewards."""
    needs_start_logps: bool = False
    """Whether token log-probabilities of the policy at the start of the stage are needed."""
    auxiliary: Mapping[str, nn.Parameter] = field(default_factory=dict)
    """Parameters of its own: in the optimiser and the saved state, not in the model."""

    def __call__(self, inputs: ObjectiveInputs) -> Float[Tensor, " pair"]:
        """Return one loss per pair."""
        return self.loss(inputs)


def build_objective(config: ObjectiveConfig) -> Objective:
    """Build what the recipe names."""
    loss = preference_loss(config)
    if config.nll is not None:
        loss = _with_nll(loss, config.nll)
    return Objective(loss, config.beta, needs_start_logps=isinstance(config, SrlmKl))


def preference_loss(config: ObjectiveConfig) -> PairLoss:
    """Return the preference term of an objective, without its likelihood term."""
    match config:
        case Dpo(beta=beta):
            return lambda i: losses.dpo(i.policy, i.reference, beta=beta)
        case ConservativeDpo(beta=beta, label_smoothing=e):
            return lambda i: losses.conservative_dpo(
                i.policy, i.reference, beta=beta, label_smoothing=e
            )
        case Cream(beta=beta):
            return lambda i: losses.cream(
                i.policy, i.reference, beta=beta, consistency=i.consistency
            )
        case Ipo(beta=beta):
            return lambda i: losses.ipo(i.policy, i.reference, beta=beta)
        case WeightedDpo(beta=beta):
            return lambda i: losses.weighted_dpo(
                i.policy, i.reference, beta=beta, weight=_trust(i.consistency)
            )
        case RobustDpo(beta=beta, label_smoothing=e):
            return lambda i: losses.robust_dpo(i.policy, i.reference, beta=beta, label_smoothing=e)
        case LengthNormalisedDpo() | LengthNormalisedIpo() | SimPo():
            return _per_token_loss(config)
        case SrlmKl():
            return _srlm_kl(config)
        case _:
            assert_never(config)


def _per_token_loss(config: LengthNormalisedDpo | LengthNormalisedIpo | SimPo) -> PairLoss:
    match config:
        case LengthNormalisedDpo(beta=beta):
            return lambda i: losses.length_normalised_dpo(
                i.policy,
                i.reference,
                beta=beta,
                chosen_lengths=i.chosen.lengths,
                rejected_lengths=i.rejected.lengths,
            )
        case SimPo(beta=beta, target_margin=margin):
            return lambda i: losses.simpo(
                i.policy,
                beta=beta,
                target_margin=margin,
                chosen_lengths=i.chosen.lengths,
                rejected_lengths=i.rejected.lengths,
            )
        case LengthNormalisedIpo(beta=beta):
            return lambda i: losses.length_normalised_ipo(
                i.policy,
                i.reference,
                beta=beta,
                chosen_lengths=i.chosen.lengths,
                rejected_lengths=i.rejected.lengths,
            )
        case _:
            assert_never(config)


def _srlm_kl(config: SrlmKl) -> PairLoss:
    def loss(i: ObjectiveInputs) -> Tensor:
        assert i.start_chosen is not None
        assert i.start_rejected is not None
        chosen = losses.token_kl_k3(i.chosen.values, i.start_chosen.values, i.chosen.mask)
        rejected = losses.token_kl_k3(i.rejected.values, i.start_rejected.values, i.rejected.mask)
        preference = losses.dpo(i.policy, i.reference, beta=config.beta)
        return preference + config.kl_weight * (chosen + rejected) / 2

    return loss


def _with_nll(preference: PairLoss, nll: Nll) -> PairLoss:
    def weight(i: ObjectiveInputs) -> Tensor:
        match nll:
            case ConstantNll():
                return torch.full_like(i.consistency, nll.weight)
            case ConsistencyNll():
                return nll.weight * _trust(i.consistency)
            case _:
                assert_never(nll)

    def loss(i: ObjectiveInputs) -> Tensor:
        return preference(i) + weight(i) * losses.chosen_nll(i.policy, i.chosen.lengths)

    return loss


def _trust(consistency: Tensor) -> Tensor:
    """2C - 1, and 0 where C is below 1/2: a negative weight would train on the reversed order."""
    return (2 * consistency - 1).clamp_min(0)
