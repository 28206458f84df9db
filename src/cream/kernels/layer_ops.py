"""The parts of a decoder layer around attention as kernels: each reads and writes memory once.

Values and derivatives of the formulas in `cream.models.layer_ops` and `cream.engines.logsumexp`,
which call these where `cream.kernels.library.fit` allows. Nothing here is known to autograd.
"""

from __future__ import annotations

import torch
from jaxtyping import BFloat16, Float32
from torch import Tensor

from cream.kernels.library import call, padded


def rms_norm(
    x: BFloat16[Tensor, "*rows dim"], weight: BFloat16[Tensor, " dim"], eps: float
) -> tuple[BFloat16[Tensor, "*rows dim"], Float32[Tensor, "*rows"]]:
    """Return the normalised rows and the factor of each, which the derivative needs."""
    x, weight = x.contiguous(), weight.contiguous()
    y, scales = torch.empty_like(x), torch.empty(x.shape[:-1])
    call("cream_rms_norm", x, weight, y, scales, *_sizes(x), eps)
    return y, scales


def rms_norm_backward(
    dy: BFloat16[Tensor, "*rows dim"],
    x: BFloat16[Tensor, "*rows dim"],
    weight: BFloat16[Tensor, " dim"],
    scales: Float32[Tensor, "*rows"],
) -> tuple[BFloat16[Tensor, "*rows dim"], Float32[Tensor, " dim"]]:
    """Return the gradients of rows and weight."""
    dy, x, weight = dy.contiguous(), x.contiguous(), weight.contiguous()
    d_x, d_weight = torch.empty_like(x), torch.zeros(len(weight))
    call("cream_rms_norm_backward", dy, x, weight, scales, d_x, d_weight, *_sizes(x))
    return d_x, d_weight


def swiglu(gate_up: BFloat16[Tensor, "row two_dim"]) -> BFloat16[Tensor, "row dim"]:
    """Return ``silu(gate) * up``."""
    gate_up = gate_up.contiguous()
    y = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
    call("cream_swiglu", gate_up, y, *_sizes(y))
    return y


def swiglu_backward(
    dy: BFloat16[Tensor, "row dim"], gate_up: BFloat16[Tensor, "row two_dim"]
) -> BFloat16[Tensor, "row two_dim"]:
    """Return the gradients of both halves, side by side."""
    dy, gate_up = dy.contiguous(), gate_up.contiguous()
    gradient = torch.empty_like(gate_up)
    call("cream_swiglu_backward", dy, gate_up, gradient, *_sizes(dy))
    return gradient


def rotate(
    x: BFloat16[Tensor, "token head dim"],
    cos: BFloat16[Tensor, "token dim"],
    sin: BFloat16[Tensor, "token dim"],
    *,
    back: bool = False,
) -> BFloat16[Tensor, "token head dim"]:
    """Return the rotated heads; ``back`` is the derivative, which turns the other way."""
    tokens, heads, dim = x.shape
    if x.stride()[1:] != (dim, 1):
        x = x.contiguous()
    y = x.new_empty(x.shape)
    cos, sin, sign = cos.contiguous(), sin.contiguous(), -1.0 if back else 1.0
    call("cream_rotate", x, x.stride(0), cos, sin, y, heads * dim, tokens, heads, dim, sign)
    return y


def log_normalisers(
    logits: BFloat16[Tensor, "row vocab"], temperature: float
) -> Float32[Tensor, " row"]:
    """Return the log-sum-exp of ``logits / temperature`` of every row."""
    logits = logits.contiguous()
    rows, vocab = logits.shape
    out = torch.empty(rows)
    call("cream_log_normalisers", logits, out, rows, vocab, 1 / temperature)
    return out


def add_transposed_product(
    a: BFloat16[Tensor, "token out"],
    b: BFloat16[Tensor, "token in_"],
    c: Float32[Tensor, "out in_"],
) -> None:
    """``c += a.T @ b`` without rounding the product to bfloat16: the gradient of a weight.

    PyTorch would make it in bfloat16, at half the rate of other products, then widen and add it.
    """
    a, b = a.contiguous(), b.contiguous()
    (tokens, out), inner = a.shape, b.shape[1]
    memory = torch.empty(padded(tokens) * (padded(out) + padded(inner)) * 2, dtype=torch.uint8)
    call("cream_add_transposed_product", a, b, c, memory, tokens, out, inner)


def _sizes(x: Tensor) -> tuple[int, int]:
    return x.shape[:-1].numel(), x.shape[-1]
