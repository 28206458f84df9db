"""AdamW on float32 master weights, with forward and backward in bfloat16 where that is native.

With bfloat16 the model that computes is a bfloat16 *copy*; the model given stays float32 and is
what the optimiser updates. (What follows is about models that train in their own form; one in fused
form is computed by `cream.training.fused_training`, to the same effect.) After each micro-batch the
copy's gradients are added to the masters' in float32, and after each step the masters are rounded
into the copy. A learning rate of 1e-6 changes most weights by less than half a bfloat16 unit, so
without masters most updates would be lost. The copy was chosen over autocast by measurement (one
core with AMX, 135M parameters, 16 rows of 96 tokens, forward + backward: 2.8 CPU s against 3.0;
float32 norms and residuals cost the difference). Only parameters are rounded: position tables stay
float32.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cream.algorithms.objective import Auxiliary
from cream.algorithms.statistics import share_of
from cream.models.fused_decoder import FusedDecoder
from cream.recipe.training import OptimiserConfig
from cream.training.forward import Policy
from cream.training.fused_training import FusedTraining

PLAIN_ATTENTION_TOKENS = 512
"""Rows up to this length take plain matrix-product attention on a CPU (see `plain_attention`)."""


class Weights:
    """The master weights of a model and what computes with them.

    Args:
        model: Float32 causal language model.
        dtype: Dtype of forward and backward.
        decoder: The model's fused form, if that is what computes.
        policy: The model divided among ranks, if that is what computes; it rounds by itself.
    """

    def __init__(
        self,
        model: Any,
        dtype: torch.dtype,
        decoder: FusedDecoder | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.masters: dict[str, nn.Parameter] = {
            name: p for name, p in model.named_parameters() if p.requires_grad
        }
        self.computing: Any = model
        self.model: Any = model
        """The module whose modes say how it computes."""
        self._copies: list[Tensor] = []
        self._fused = None
        if decoder is not None:
            self.computing = self._fused = FusedTraining(model, decoder, dtype)
        elif policy is not None:
            self.computing = policy
        elif dtype != torch.float32:
            self.computing = self.model = copy.deepcopy(model)
            for parameter in self.computing.parameters():
                parameter.data = parameter.data.to(dtype)
            for name, parameter in self.computing.named_parameters():
                if parameter.requires_grad:
                    self._copies.append(parameter)
                    parameter.register_post_accumulate_grad_hook(_adder(self.masters[name]))

    def publish(self) -> None:
        """Round the masters into what computes."""
        if self._fused is not None:
            self._fused.publish()
        elif self._copies:
            with torch.no_grad():
                torch._foreach_copy_(self._copies, list(self.masters.values()))

    def clear_gradients(self) -> None:
        """Forget the gradients of the last step."""
        if self._fused is not None:
            self._fused.clear_gradients()
            return
        for master in self.masters.values():
            master.grad = None


def _adder(master: nn.Parameter) -> Callable[[Tensor], None]:
    def add_gradient(computing: Tensor) -> None:
        assert computing.grad is not None
        if master.grad is None:
            master.grad = computing.grad.to(master.dtype)
        else:
            master.grad.add_(computing.grad)
        computing.grad = None

    return add_gradient


def adamw(
    masters: Mapping[str, nn.Parameter],
    config: OptimiserConfig,
    auxiliary: Mapping[str, Auxiliary] | None = None,
) -> torch.optim.AdamW:
    """Build the optimiser; weight decay applies to the model's matrices, not to biases and norms.

    The modules of an objective follow as groups of their own (``peak`` is their learning rate).
    """
    matrices = [p for p in masters.values() if p.ndim >= 2]
    vectors = [p for p in masters.values() if p.ndim < 2]
    groups = [
        {"params": matrices, "weight_decay": config.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    for own in (auxiliary or {}).values():
        groups.append(
            {
                "params": list(own.module.parameters()),
                "weight_decay": own.weight_decay,
                "peak": own.learning_rate,
            }
        )
    trained = [group for group in groups if group["params"]]
    return torch.optim.AdamW(
        trained,
        lr=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        fused=trained[0]["params"][0].device.type in ("cpu", "cuda"),
    )


def update(
    optimiser: torch.optim.AdamW, config: OptimiserConfig, step: int, total: int, *, scale: float
) -> float:
    """Take a step; returns the learning rate of the model, which `scale` multiplies."""
    rate = scale * learning_rate(config, step, total)
    for group in optimiser.param_groups:
        peak = group.get("peak")
        group["lr"] = rate if peak is None else learning_rate(config, step, total, peak=peak)
    optimiser.step()
    return rate


def learning_rate(
    config: OptimiserConfig, step: int, total_steps: int, *, peak: float | None = None
) -> float:
    """Return the learning rate at a step (0 is the first), > 0; of another peak, if one is given.

    Warm-up reaches the peak after ``ceil(warmup_ratio * total_steps)`` steps. Unlike
    transformers' schedule it starts at one part, not at zero, which would waste the first step.
    """
    peak = config.learning_rate if peak is None else peak
    warmup = share_of(config.warmup_ratio, total_steps, round_up=True)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, total_steps - warmup)
    match config.schedule:
        case "cosine":
            return peak * 0.5 * (1 + math.cos(math.pi * progress))
        case "linear":
            return peak * (1 - progress)
        case "constant":
            return peak


def clip_gradients(masters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale the gradients to at most `max_norm` in place; return the norm before, in float32."""
    norm = torch.nn.utils.clip_grad_norm_(masters, max_norm, foreach=True)
    return float(norm.full_tensor() if isinstance(norm, DTensor) else norm)


@contextmanager
def plain_attention(model: Any, *, longest_row: int) -> Iterator[None]:
    """Use matrix-product attention for short rows on a CPU, and put the choice back.

    The flash kernel's backward pass on the CPU is slow on short rows: 2.8 CPU s against 2.0 for the
    whole backward pass in the measurement above. Both compute the same function.
    """
    config = model.config
    before = getattr(config, "_attn_implementation", None)
    on_cpu = all(p.device.type == "cpu" for p in model.parameters())
    switches = before == "sdpa" and on_cpu and longest_row <= PLAIN_ATTENTION_TOKENS
    if switches:
        model.set_attn_implementation("eager")
    try:
        yield
    finally:
        if switches:
            model.set_attn_implementation(before)
