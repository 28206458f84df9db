"""The elementwise parts of a decoder layer in as few passes over memory as PyTorch allows.

Between matrix products a layer does little arithmetic and much reading and writing; written as
formulas (in the model libraries) that costs two to three times the passes, forward and backward.
Each function here is that formula with its derivative written out, so it allocates and saves less.
That is what can be had on every device; where the compiled kernels fit (`cream.kernels`), they do
the same in one pass each.

Sources: root mean square normalisation, Zhang & Sennrich 2019 (arXiv 1910.07467, equation 4);
SwiGLU, Shazeer 2020 (arXiv 2002.05202, equation 6); rotary positions, Su et al. 2021 (arXiv
2104.09864, equation 34, in the half-split order of transformers). Derivatives by hand; tested
against autograd.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from cream.kernels import layer_ops as kernels
from cream.kernels.library import fit


def rms_norm(
    x: Float[Tensor, "*rows dim"], weight: Float[Tensor, " dim"], eps: float
) -> Float[Tensor, "*rows dim"]:
    """``weight * x / sqrt(mean(x^2) + eps)``; the quotient in float32, rounded to x's dtype."""
    if not torch.is_grad_enabled():  # an autograd function costs more than the arithmetic
        if fit(x, weight):
            return kernels.rms_norm(x, weight, eps)[0]
        return _normalise(x, eps)[0].mul_(weight)
    return _RmsNorm.apply(x, weight, eps)  # type: ignore[return-value]


def swiglu(gate_up: Float[Tensor, "row two_dim"]) -> Float[Tensor, "row dim"]:
    """``silu(gate) * up`` of two halves that one product has made side by side."""
    if not torch.is_grad_enabled():
        return _gated(gate_up)
    return _SwiGlu.apply(gate_up)  # type: ignore[return-value]


def rotate(
    x: Float[Tensor, "token head dim"],
    cos: Float[Tensor, "token dim"],
    sin: Float[Tensor, "token dim"],
) -> Float[Tensor, "token head dim"]:
    """Rotary positions: ``x * cos + (-x2, x1) * sin`` for halves x1, x2 of every head."""
    if not torch.is_grad_enabled():
        return _rotated(x, cos, sin)
    return _Rotate.apply(x, cos, sin)  # type: ignore[return-value]


def _wide(x: Tensor) -> Tensor:
    return x if x.dtype == torch.float64 else x.float()


def _normalise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    wide = _wide(x)
    norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = norm.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    return (wide * scale).to(x.dtype), scale


def _gated(gate_up: Tensor) -> Tensor:
    if fit(gate_up):
        return kernels.swiglu(gate_up)
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate).mul_(up)


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    if fit(x, cos, sin):
        return kernels.rotate(x, cos, sin)
    cos, sin = cos[:, None], sin[:, None]
    half = x.shape[-1] // 2
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-1)
    out[..., half:].addcmul_(x[..., :half], sin[..., half:])
    return out


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        ctx.by_kernel = fit(x, weight)
        if ctx.by_kernel:
            y, scale = kernels.rms_norm(x, weight, eps)
            ctx.save_for_backward(x, scale, weight)
            return y
        normal, scale = _normalise(x, eps)
        ctx.save_for_backward(normal, scale, weight)
        return normal * weight

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor | None, None]:
        # y = n w, n = x s: dx = s (g - n mean(g n)) with g = dy w.
        normal, scale, weight = ctx.saved_tensors
        if ctx.by_kernel:  # which makes n of x again
            d_x, d_wide = kernels.rms_norm_backward(upstream[0], normal, weight, scale)
            return d_x, d_wide.to(weight.dtype), None
        product = upstream[0] * normal
        d_weight = product.sum(0) if ctx.needs_input_grad[1] else None
        along = (_wide(product) @ _wide(weight))[..., None].div_(-normal.shape[-1])
        d_x = _wide(upstream[0] * weight).addcmul_(_wide(normal), along).mul_(scale)
        return d_x.to(normal.dtype), d_weight, None


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        return _gated(gate_up)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> Tensor:
        (gate_up,) = ctx.saved_tensors
        if fit(gate_up, upstream[0]):
            return kernels.swiglu_backward(upstream[0], gate_up)
        gate, up = gate_up.chunk(2, -1)
        gradient = torch.empty_like(gate_up)
        d_gate, d_up = gradient.chunk(2, -1)
        torch.mul(upstream[0], F.silu(gate), out=d_up)
        d_gate.copy_(torch.ops.aten.silu_backward(upstream[0] * up, gate))
        return gradient


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        (y,) = upstream
        if fit(y, cos, sin):
            return kernels.rotate(y, cos, sin, back=True), None, None
        cos, sin = cos[:, None], sin[:, None]
        half = y.shape[-1] // 2
        d_x = y * cos
        d_x[..., :half].addcmul_(y[..., half:], sin[..., half:])
        d_x[..., half:].addcmul_(y[..., :half], sin[..., :half], value=-1)
        return d_x, None, None
