"""Losses as pure functions: sums of token log-probabilities in, one loss per pair out.

No function reduces over pairs, reads a configuration, or switches its formula by a flag. Metrics
are apart, so that reporting can never change a gradient. The objects that training takes are made
of these in `cream.algorithms.preference`.

Notation: ``g = log pi(chosen) - log pi(rejected)`` is the gap of a model, and
``x = beta * (g_policy - g_reference)``; C in [0, 1] is the consistency of a pair. beta is
dimensionless, log-probabilities are nats. At ``policy == reference``, x = 0.

Sources: DPO, Rafailov et al. 2023 (arXiv 2305.18290) eq. 7; conservative DPO, Mitchell 2023
(note "cDPO"); CREAM, Wang et al. (arXiv 2410.12735); IPO, Azar et al. (arXiv 2310.12036) eq. 17;
robust DPO, Chowdhury et al. (arXiv 2403.00409) eq. 9; SimPO, Meng et al. (arXiv 2405.14734) eq. 6;
NLL on the chosen, Pang et al. (IRPO, arXiv 2404.19733) eq. 2.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import logsigmoid, softplus


@dataclass(frozen=True, slots=True)
class PairLogps:
    """Sums of completion token log-probabilities under one model, nats."""

    chosen: Float[Tensor, " pair"]
    rejected: Float[Tensor, " pair"]

    @property
    def gap(self) -> Float[Tensor, " pair"]:
        """Log p(chosen) - log p(rejected)."""
        return self.chosen - self.rejected


def scaled_margin(
    policy: PairLogps, reference: PairLogps, *, beta: float
) -> Float[Tensor, " pair"]:
    """Return x = beta * (policy gap - reference gap), the argument of every loss below."""
    return beta * (policy.gap - reference.gap)


def dpo(policy: PairLogps, reference: PairLogps, *, beta: float) -> Float[Tensor, " pair"]:
    """-log sigmoid(x): Rafailov et al. 2023, eq. 7. ``d/dx = sigmoid(x) - 1``; ln 2 at x = 0."""
    return softplus(-scaled_margin(policy, reference, beta=beta))


def conservative_dpo(
    policy: PairLogps,
    reference: PairLogps,
    *,
    beta: float,
    label_smoothing: float | Float[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """-(1 - e) log sigmoid(x) - e log sigmoid(-x): each order is wrong with probability e.

    Args:
        policy: Log-probabilities under the model in training.
        reference: The same completions under the loss reference.
        beta: Strength of the reference, > 0.
        label_smoothing: e in [0, 1], one number or one per pair.
    """
    x = scaled_margin(policy, reference, beta=beta)
    return -(1 - label_smoothing) * logsigmoid(x) - label_smoothing * logsigmoid(-x)


def cream(
    policy: PairLogps,
    reference: PairLogps,
    *,
    beta: float,
    consistency: Float[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """C * DPO(chosen over rejected) + (1 - C) * DPO(rejected over chosen), as one stable line.

    ``C softplus(-x) + (1 - C) softplus(x) = softplus(-x) + (1 - C) x``, because
    ``softplus(x) = softplus(-x) + x``. So it is DPO with a linear penalty on the margin:
    ``d/dx = sigmoid(x) - C``, zero at x* = logit(C); at x = 0 and C = 1/2 there is no gradient.
    It equals `conservative_dpo` with ``label_smoothing = 1 - C``.

    Args:
        policy: Log-probabilities under the model in training.
        reference: The same completions under the loss reference.
        beta: Strength of the reference, > 0.
        consistency: C per pair, in [0, 1]; a set-level C is the same number in every place.
    """
    x = scaled_margin(policy, reference, beta=beta)
    return softplus(-x) + (1 - consistency) * x


def ipo(policy: PairLogps, reference: PairLogps, *, beta: float) -> Float[Tensor, " pair"]:
    """(h - 1 / (2 beta))^2 with h = policy gap - reference gap: Azar et al., eq. 17, tau = beta.

    Sums, as the equation is written; see `length_normalised_ipo` for the form TRL has.
    """
    return (policy.gap - reference.gap - 1 / (2 * beta)).square()


def length_normalised_ipo(
    policy: PairLogps,
    reference: PairLogps,
    *,
    beta: float,
    chosen_lengths: Float[Tensor, " pair"],
    rejected_lengths: Float[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """IPO on log-ratios per token.

    According to TRL the authors confirmed this form for the paper's results; its equation does
    not show it.
    """
    chosen = (policy.chosen - reference.chosen) / chosen_lengths
    rejected = (policy.rejected - reference.rejected) / rejected_lengths
    return (chosen - rejected - 1 / (2 * beta)).square()


def trust(consistency: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """max(0, 2C - 1): 1 at C = 1, 0 from C = 1/2 down.

    A negative weight would train on the reversed order.
    """
    return (2 * consistency - 1).clamp_min(0)


def weighted_dpo(
    policy: PairLogps,
    reference: PairLogps,
    *,
    beta: float,
    weight: Float[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """W * DPO. With w = 2C - 1 it shares CREAM's gradient at x = 0, and only there.

    ``d/dx = (2C - 1)(sigmoid(x) - 1)``, at x = 0 this is ``1/2 - C``, CREAM's. There is no fixed
    point: the margin grows without bound. A negative weight trains on the reversed order.
    """
    return weight * dpo(policy, reference, beta=beta)


def robust_dpo(
    policy: PairLogps, reference: PairLogps, *, beta: float, label_smoothing: float
) -> Float[Tensor, " pair"]:
    """[-(1 - e) log sigmoid(x) + e log sigmoid(-x)] / (1 - 2e): Chowdhury et al., eq. 9.

    Unbiased for the clean-label DPO loss if orders flip with probability e in [0, 1/2). Mind the
    sign of the second term: it is minus that of `conservative_dpo`, and unbounded below.
    """
    x = scaled_margin(policy, reference, beta=beta)
    signed = -(1 - label_smoothing) * logsigmoid(x) + label_smoothing * logsigmoid(-x)
    return signed / (1 - 2 * label_smoothing)


def length_normalised_dpo(
    policy: PairLogps,
    reference: PairLogps,
    *,
    beta: float,
    chosen_lengths: Float[Tensor, " pair"],
    rejected_lengths: Float[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """DPO on log-ratios per token. beta is then larger, by about a completion length."""
    chosen = (policy.chosen - reference.chosen) / chosen_lengths
    rejected = (policy.rejected - reference.rejected) / rejected_lengths
    return softplus(-beta * (chosen - rejected))


def simpo(
    policy: PairLogps,
    *,
    beta: float,
    target_margin: float,
    chosen_lengths: Float[Tensor, " pair"],
    rejected_lengths: Float[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """-log sigmoid(beta (mean chosen - mean rejected) - gamma): Meng et al., eq. 6. No reference.

    Args:
        policy: Log-probabilities under the model in training.
        beta: Scale of the per-token log-probabilities (paper: 2.0 to 10).
        target_margin: gamma of the paper, >= 0, in the unit of the scaled margin.
        chosen_lengths: Tokens of the chosen completions.
        rejected_lengths: Tokens of the rejected completions.
    """
    gap = policy.chosen / chosen_lengths - policy.rejected / rejected_lengths
    return softplus(target_margin - beta * gap)


def chosen_nll(policy: PairLogps, chosen_lengths: Float[Tensor, " pair"]) -> Float[Tensor, " pair"]:
    """Mean negative log-likelihood of the chosen completion, nats per token (IRPO, eq. 2)."""
    return -policy.chosen / chosen_lengths


def srlm_kl(
    policy: PairLogps,
    reference: PairLogps,
    *,
    beta: float,
    kl_weight: float,
    chosen_kl: Float[Tensor, " pair"],
    rejected_kl: Float[Tensor, " pair"],
) -> Float[Tensor, " pair"]:
    """DPO plus a divergence from the policy at the start, averaged over both completions.

    Args:
        policy: Log-probabilities under the model in training.
        reference: The same completions under the loss reference.
        beta: Strength of the reference, > 0.
        kl_weight: Weight of the divergence, > 0.
        chosen_kl: `token_kl_k3` of the chosen completions against the policy at the start.
        rejected_kl: Likewise of the rejected ones.
    """
    preference = dpo(policy, reference, beta=beta)
    return preference + kl_weight * (chosen_kl + rejected_kl) / 2


def token_kl_k1(
    policy: Float[Tensor, "pair token"],
    reference: Float[Tensor, "pair token"],
    mask: Bool[Tensor, "pair token"],
) -> Float[Tensor, " pair"]:
    """Mean over tokens of log pi - log ref: unbiased for KL(pi || ref) on tokens drawn from pi.

    A measurement, not a loss: as a loss its gradient is that of the log-likelihood alone, which
    does not depend on the reference (Schulman, "Approximating KL divergence", 2020).
    """
    return _masked_mean(policy - reference, mask)


def token_kl_k3(
    policy: Float[Tensor, "pair token"],
    reference: Float[Tensor, "pair token"],
    mask: Bool[Tensor, "pair token"],
) -> Float[Tensor, " pair"]:
    """Mean over tokens of r - 1 - log r, r = ref / pi: >= 0 and zero only where both agree.

    Unbiased for KL(pi || ref) on tokens drawn from pi, and usable as a loss:
    ``d/d log pi = 1 - r`` pulls towards the reference.
    """
    log_r = reference - policy
    return _masked_mean(torch.expm1(log_r) - log_r, mask)


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0).sum(-1) / mask.sum(-1)


def preference_metrics(
    policy: PairLogps, reference: PairLogps, *, beta: float
) -> dict[str, Float[Tensor, " pair"]]:
    """Return what TRL logs under the same names, one value per pair, without gradient.

    ``rewards/chosen`` and ``rewards/rejected`` are beta times the log-ratio against the *loss*
    reference; ``rewards/margins`` their difference; ``rewards/accuracies`` 1 where it is positive;
    ``logps/*`` the policy's sums in nats. Callers average over the pairs of a step.
    """
    chosen = beta * (policy.chosen - reference.chosen).detach()
    rejected = beta * (policy.rejected - reference.rejected).detach()
    return {
        "rewards/chosen": chosen,
        "rewards/rejected": rejected,
        "rewards/margins": chosen - rejected,
        "rewards/accuracies": (chosen > rejected).to(chosen.dtype),
        "logps/chosen": policy.chosen.detach(),
        "logps/rejected": policy.rejected.detach(),
    }
