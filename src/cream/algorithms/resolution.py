"""Whether a step's gradient is more than the rounding of the log-probabilities it is made of.

A log-probability sum of T tokens carries a rounding error of about ``error * sqrt(T)`` nats, since
the errors of tokens are independent. The gradient of a loss l with respect to the sums, dl/ds,
carries what that error makes of it, |d2l/ds2| * error * sqrt(T). Adam divides a gradient by its own
size, so one that is nothing but this is applied at full step size: a step is taken only if its
gradient is more.

For the CREAM loss softplus(-x) + (1 - C) x, x = beta * (gap - reference gap), the test of a pair is

    |sigmoid(x) - C|  >  beta * sigmoid'(x) * error * sqrt(T_chosen + T_rejected)

so C = 1/2 at x = 0 is never trained, and a loss that is linear in the sums (likelihood) always is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cream.algorithms.objective import ObjectiveInputs, PerExample

ERROR_EPS = 8.0
"""Rounding error of one token's log-probability, in units of the dtype's eps (nats). Measured
noise floors are 1 to 3 eps; the loss reference was scored with another of the same size."""
LEAST_ERROR = 2.0**-18
"""Least error, nats: sums and losses are float32, which has no finer sigmoid(x) - C than 6e-8."""
SECANT_NATS = 2.0**-10
"""Least shift of a sum, per root of a token, over which the second derivative is taken: a shift of
float32's own error would drown in the rounding of the difference."""


@dataclass(frozen=True, slots=True)
class Resolution:
    """Sums of squares over the examples of a step, of the gradient with respect to log-probs."""

    gradient: float = 0.0
    rounding: float = 0.0
    """What rounding alone may have put there."""

    def __add__(self, other: Resolution) -> Resolution:
        return Resolution(self.gradient + other.gradient, self.rounding + other.rounding)

    @property
    def is_rounding(self) -> bool:
        """Whether the gradient is no more than rounding; 0 and 0 is."""
        return self.gradient <= self.rounding


def token_error(dtype: torch.dtype) -> float:
    """Rounding error of a token's log-probability computed in `dtype`, nats, > 0."""
    return max(ERROR_EPS * torch.finfo(dtype).eps, LEAST_ERROR)


def resolution(
    loss: Callable[[ObjectiveInputs], PerExample], inputs: ObjectiveInputs, *, error: float
) -> Resolution:
    """Compare the gradient of a loss with respect to the log-probs with their rounding.

    Args:
        loss: One value per example; called once more than there are roles.
        inputs: The examples. Sequences of roles that are merely read count for nothing.
        error: Rounding error of a token's log-probability, nats (see `token_error`).
    """
    shift = max(error, SECANT_NATS)
    gradient = _gradient(loss, inputs, None, 0.0)
    rounding = 0.0
    for role, sequence in inputs.sequences.items():
        if sequence.mask.any():
            moved = _gradient(loss, inputs, role, shift)
            rounding += _squared([a - b for a, b in zip(moved, gradient, strict=True)])
    return Resolution(_squared(gradient), rounding * (error / shift) ** 2)


def _gradient(
    loss: Callable[[ObjectiveInputs], PerExample],
    inputs: ObjectiveInputs,
    shifted: str | None,
    shift: float,
) -> list[Tensor]:
    """Gradient of the sum of losses by role, the sums of one role raised by shift * sqrt(T)."""
    sequences = {}
    for role, sequence in inputs.sequences.items():
        logps, start = sequence.token_logps.detach(), sequence.start_token_logps
        if role == shifted:
            roots = sequence.mask.sum(-1, keepdim=True).clamp_min(1).sqrt()
            error = torch.where(sequence.mask, shift / roots, 0.0)
            # The start is computed as the steps are, and shares their rounding.
            logps, start = logps + error, None if start is None else start + error
        leaf = logps.clone().requires_grad_()
        sequences[role] = replace(sequence, token_logps=leaf, start_token_logps=start)
    with torch.enable_grad():
        total = loss(replace(inputs, sequences=sequences)).sum()
    leaves = [sequence.token_logps for sequence in sequences.values()]
    if not total.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    return [
        torch.zeros_like(leaf) if g is None else g for leaf, g in zip(leaves, found, strict=True)
    ]


def _squared(tensors: list[Tensor]) -> float:
    return sum(float(t.double().square().sum()) for t in tensors)
