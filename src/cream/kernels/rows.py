"""The elementwise parts of a decoder layer as kernels: one pass over memory each, differentiable.

Same formulas and roundings as the PyTorch form in `cream.models.passes` and
`cream.engines.normalising`; callers ask `cream.kernels.library.fit` first.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import BFloat16, Float32
from torch import Tensor

from cream.kernels.library import call


def rms_norm(
    x: BFloat16[Tensor, "*rows dim"], weight: BFloat16[Tensor, " dim"], eps: float
) -> BFloat16[Tensor, "*rows dim"]:
    """See `cream.models.passes.rms_norm`."""
    if not torch.is_grad_enabled():
        return _normalised(x.contiguous(), weight, eps)[0]
    return _RmsNorm.apply(x.contiguous(), weight, eps)  # type: ignore[return-value]


def swiglu(gate_up: BFloat16[Tensor, "row two_dim"]) -> BFloat16[Tensor, "row dim"]:
    """See `cream.models.passes.swiglu`."""
    if not torch.is_grad_enabled():
        return _gated(gate_up.contiguous())
    return _SwiGlu.apply(gate_up.contiguous())  # type: ignore[return-value]


def rotate(
    x: BFloat16[Tensor, "token head dim"],
    cos: BFloat16[Tensor, "token dim"],
    sin: BFloat16[Tensor, "token dim"],
) -> BFloat16[Tensor, "token head dim"]:
    """See `cream.models.passes.rotate`."""
    if not torch.is_grad_enabled():
        return _rotated(x, cos, sin, 1.0)
    return _Rotate.apply(x, cos, sin)  # type: ignore[return-value]


def log_normalisers(
    logits: BFloat16[Tensor, "row vocab"], temperature: float
) -> Float32[Tensor, " row"]:
    """See `cream.engines.normalising.log_normalisers`."""
    logits = logits.contiguous()
    rows, vocab = logits.shape
    out = torch.empty(rows)
    call("cream_log_normalisers", logits, out, rows, vocab, 1 / temperature)
    return out


def _sizes(x: Tensor) -> tuple[int, int]:
    return x.shape[:-1].numel(), x.shape[-1]


def _normalised(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    y, scales = torch.empty_like(x), torch.empty(x.shape[:-1])
    call("cream_rms_norm", x, weight, y, scales, *_sizes(x), eps)
    return y, scales


def _gated(gate_up: Tensor) -> Tensor:
    y = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
    call("cream_swiglu", gate_up, y, *_sizes(y))
    return y


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    tokens, heads, dim = x.shape
    if x.stride()[1:] != (dim, 1):
        x = x.contiguous()
    y = x.new_empty(x.shape)
    cos, sin = cos.contiguous(), sin.contiguous()
    call("cream_rotate", x, x.stride(0), cos, sin, y, heads * dim, tokens, heads, dim, sign)
    return y


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        y, scales = _normalised(x, weight, eps)
        ctx.save_for_backward(x, weight, scales)
        return y

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scales = ctx.saved_tensors
        d_x, d_weight = torch.empty_like(x), torch.zeros(len(weight))
        dy = upstream[0].contiguous()
        call("cream_rms_norm_backward", dy, x, weight, scales, d_x, d_weight, *_sizes(x))
        return d_x, d_weight.to(weight.dtype), None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _gated(gate_up)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        dy, gradient = upstream[0].contiguous(), torch.empty_like(gate_up)
        call("cream_swiglu_backward", dy, gate_up, gradient, *_sizes(dy))
        return gradient


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _rotated(upstream[0], cos, sin, -1.0), None, None
