"""Policy gradient on sampled completions: ratio forms, clipping, estimators of the divergence.

All functions are pure and return one value per example or token; nothing reduces over examples.
``start`` is the policy that drew the samples, before the first step of the stage.

Source: PPO's clipped surrogate, Schulman et al. 2017, arXiv 1707.06347; estimators k1, k2, k3,
Schulman 2020 (Approximating KL divergence); sequence ratios, S2R, arXiv 2502.12853 (product in the
paper, geometric in its code) and GSPO, arXiv 2507.18071; per-token ratio, GRPO, arXiv 2402.03300.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from cream.algorithms.advantages import ENTROPY_FALL
from cream.algorithms.objective import (
    Needs,
    Objective,
    ObjectiveInputs,
    PerExample,
    SequenceInputs,
    start_of,
)

ADVANTAGE, REFERENCE = "advantage", "reference"
"""Token columns: the advantage, the same at every token of a completion; log-probabilities under
the loss reference."""
ACTION = "action"
"""Token column: number of the action of a completion that a token is part of, from 0; -1: of none,
and not trained on. Each action has a ratio of its own, and its advantage at every token."""
REWARD, VOTE_SHARE = "reward", "vote_share"
"""Columns of an example: mean reward of the prompt's samples, share of their most given answer."""

Tokens = Float[Tensor, "example token"]
Mask = Bool[Tensor, "example token"]
RatioForm = Callable[[Tokens, Tokens, Mask], Tensor]
"""`product_ratio`, `geometric_ratio` or `token_ratio`: what is clipped, per completion or token."""
Estimator = Callable[[Tensor, Tensor], Tensor]
"""Of ``KL(pi || reference)`` as a term of the loss, per token: `k2` or `k3`."""


def product_ratio(policy: Tokens, start: Tokens, mask: Mask) -> PerExample:
    """``pi(y) / pi_start(y)`` of whole completions."""
    return torch.where(mask, policy - start, 0).sum(-1).exp()


def geometric_ratio(policy: Tokens, start: Tokens, mask: Mask) -> PerExample:
    """``(pi(y) / pi_start(y)) ** (1 / T)``: its gradient is 1 / T of the product's at the start."""
    return _masked_mean(policy - start, mask).exp()


def token_ratio(policy: Tokens, start: Tokens, mask: Mask) -> Tokens:
    """``pi(y_t) / pi_start(y_t)`` of each token, 1 outside the mask."""
    return torch.where(mask, policy - start, 0).exp()


def surrogate(ratio: Tensor, advantage: Tensor) -> Tensor:
    """``-rho A``: its gradient at the start is that of ``-A log pi`` (REINFORCE)."""
    return -ratio * advantage


def clipped_surrogate(ratio: Tensor, advantage: Tensor, *, clip: float) -> Tensor:
    """``-min(rho A, clip(rho, 1 - clip, 1 + clip) A)``.

    Nothing is gained by raising a good sample beyond ``1 + clip``, or lowering a bad one below
    ``1 - clip``; the gradient is zero there and nowhere else.
    """
    clipped = ratio.clamp(1 - clip, 1 + clip)
    return -torch.minimum(ratio * advantage, clipped * advantage)


def k1(policy: Tensor, reference: Tensor) -> Tensor:
    """``log pi - log ref`` on samples of pi: unbiased, of either sign.

    Right where it is a number that changes a reward. As a term of the loss it is worthless: the
    mean of its gradient, ``E[grad log pi]``, is zero.
    """
    return policy - reference


def k2(policy: Tensor, reference: Tensor) -> Tensor:
    """``(log pi - log ref)^2 / 2``: biased, and its gradient is, on average, that of the KL."""
    return (policy - reference) ** 2 / 2


def k3(policy: Tensor, reference: Tensor) -> Tensor:
    """``r - 1 - log r``, r = ref / pi: unbiased and never negative (GRPO's term).

    Its gradient, ``(1 - r) grad log pi``, is on average that of ``KL(ref || pi)``, not of
    ``KL(pi || ref)``; both pull towards the reference.
    """
    log_r = reference - policy
    return torch.expm1(log_r) - log_r


def divergence(policy: Tokens, reference: Tokens, mask: Mask, estimator: Estimator) -> PerExample:
    """Mean of the estimator over the tokens of the mask, nats per token."""
    return _masked_mean(estimator(policy, reference), mask)


def token_entropy(policy: Tokens, start: Tokens, mask: Mask) -> PerExample:
    """Entropy of the next token under the policy, nats, on the prefixes that start sampled.

    Self-normalised importance weights per token: ``sum rho (-log pi) / sum rho``.
    """
    weight = torch.where(mask, (policy - start).exp(), 0)
    return -torch.where(mask, weight * policy, 0).sum(-1) / weight.sum(-1)


def sample_roles(count: int) -> tuple[str, ...]:
    """Roles of the samples of a prompt in its example."""
    return tuple(f"sample_{k}" for k in range(count))


def policy_gradient(
    fingerprint: str,
    num_completions: int,
    *,
    ratio: RatioForm,
    clip: float | None,
    kl: tuple[Estimator, float] | None = None,
    reads_reference: bool = False,
    per_action: bool = False,
) -> Objective:
    """The objective: mean over a prompt's samples of the surrogate, and of beta times the KL.

    The surrogate of a sample is the mean of those of its actions, or that of the whole completion.

    An example is a prompt with all its samples, so they share its row, and each prompt weighs the
    same however many of its samples count.

    Args:
        fingerprint: What it computes.
        num_completions: The most samples that a prompt has; an example may lack some.
        ratio: What of ``pi / pi_start`` is clipped.
        clip: Distance from 1 at which the ratio is clipped, in (0, 1); None: never.
        kl: Estimator and factor, > 0, per nat and token, of a divergence in the loss.
        reads_reference: Whether that is from the token column ``reference``; else from the policy
            at the start.
        per_action: Whether the column ``action`` says which tokens have a ratio of their own.
    """
    roles = sample_roles(num_completions)
    columns = (ADVANTAGE, *([REFERENCE] if reads_reference else []))
    columns = (*columns, *([ACTION] if per_action else []))

    def reference(sample: SequenceInputs) -> Tokens:
        return sample.token_columns[REFERENCE] if reads_reference else start_of(sample)

    def of_action(sample: SequenceInputs, mask: Mask) -> PerExample:
        rho, advantage = ratio_and_advantage(sample, ratio, mask)
        found = surrogate(rho, advantage)
        if clip is not None:
            found = clipped_surrogate(rho, advantage, clip=clip)
        return _masked_mean(found, mask) if found.ndim > 1 else found

    def of_sample(sample: SequenceInputs) -> PerExample:
        found = over_actions(sample, of_action)
        if kl is None:
            return found
        estimator, beta = kl
        against = divergence(sample.token_logps, reference(sample), sample.mask, estimator)
        return found + beta * against

    def metrics(inputs: ObjectiveInputs) -> Mapping[str, PerExample]:
        measured: dict[str, Callable[[SequenceInputs], PerExample]] = {
            "entropy": lambda s: token_entropy(s.token_logps, start_of(s), s.mask),
            "completion_tokens": lambda s: s.lengths,
            "clipped": lambda s: clipped_share(s, ratio, clip),
            "kl_to_start": lambda s: divergence(s.token_logps, start_of(s), s.mask, k3),
            "kl_to_reference": lambda s: divergence(s.token_logps, reference(s), s.mask, k3),
        }
        if not reads_reference:
            del measured["kl_to_reference"]
        with torch.no_grad():
            found = {name: over_samples(inputs, roles, f) for name, f in measured.items()}
        return {**found, **{name: inputs.columns[name] for name in (REWARD, VOTE_SHARE)}}

    return Objective(
        "policy_gradient",
        fingerprint,
        Needs(
            roles,
            optional=roles,
            columns=(REWARD, VOTE_SHARE),
            token_columns=dict.fromkeys(roles, columns),
            start_logps=True,
        ),
        lambda inputs: over_samples(inputs, roles, of_sample),
        metrics=metrics,
        warnings=entropy_fall,
    )


def ratio_and_advantage(
    sample: SequenceInputs, ratio: RatioForm, mask: Mask
) -> tuple[Tensor, Tensor]:
    """What the surrogate takes of the tokens of an action: both per token, or per example."""
    rho = ratio(sample.token_logps, start_of(sample), mask)
    column = sample.token_columns[ADVANTAGE]
    if rho.ndim > 1:
        return rho, column
    first = mask.to(torch.int64).argmax(-1, keepdim=True)
    return rho, column.gather(-1, first)[:, 0]


def clipped_share(sample: SequenceInputs, ratio: RatioForm, clip: float | None) -> PerExample:
    """Share of the ratios where clipping stops the gradient; 0 without clipping."""
    bound = math.inf if clip is None else clip

    def of_action(sample: SequenceInputs, mask: Mask) -> PerExample:
        rho, advantage = ratio_and_advantage(sample, ratio, mask)
        stopped = torch.where(advantage > 0, rho > 1 + bound, rho < 1 - bound) & (advantage != 0)
        share = stopped.to(sample.token_logps.dtype)
        return _masked_mean(share, mask) if share.ndim > 1 else share

    return over_actions(sample, of_action)


def over_actions(
    sample: SequenceInputs, value: Callable[[SequenceInputs, Mask], PerExample]
) -> PerExample:
    """Mean of a value over the actions of each example; without the column, of its one action."""
    action = sample.token_columns.get(ACTION)
    if action is None:
        return value(sample, sample.mask)
    total = torch.zeros(len(action), device=action.device)
    size = torch.zeros_like(total)
    for number in range(int(action.max()) + 1):
        mask = sample.mask & (action == number)
        there = mask.any(-1)
        total = total + torch.where(there, value(sample, mask), 0)
        size = size + there
    return total / size


def over_samples(
    inputs: ObjectiveInputs,
    roles: Sequence[str],
    value: Callable[[SequenceInputs], PerExample],
) -> PerExample:
    """Mean of a value over the samples that each example has."""
    present = torch.stack([inputs[role].present for role in roles])
    total = torch.zeros(present.shape[1], device=present.device)
    for role, there in zip(roles, present, strict=True):
        if there.any():
            some = value(inputs[role].examples(there))
            total = total + torch.zeros_like(total).masked_scatter(there, some)
    return total / present.sum(0)


def entropy_fall(metrics: Sequence[Mapping[str, float]]) -> tuple[str, ...]:
    """A sentence if the entropy fell by half from the first to the last third of the steps."""
    known = [m["entropy"] for m in metrics if "entropy" in m]
    third = max(1, len(known) // 3)
    if len(known) < 2:
        return ()
    first, last = sum(known[:third]) / third, sum(known[-third:]) / third
    if last >= ENTROPY_FALL * first:
        return ()
    return (
        f"entropy_collapse: entropy fell from {first:.3f} to {last:.3f} nats per token within the "
        "stage. Lower the learning rate, take fewer steps per batch of samples, or add a KL term.",
    )


def _masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    # Examples may lack an action that others of the batch have: its mean is 0, and is not counted.
    return torch.where(mask, values, 0).sum(-1) / mask.sum(-1).clamp_min(1)
