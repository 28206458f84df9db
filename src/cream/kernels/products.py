"""The gradient of a product's weight as a kernel: added to a float32 buffer in one step.

PyTorch would make it in bfloat16, at half the rate of other products, then widen and add it.
"""

from __future__ import annotations

import torch
from jaxtyping import BFloat16, Float32
from torch import Tensor

from cream.kernels.library import call, padded


def add_transposed_product(
    a: BFloat16[Tensor, "token out"],
    b: BFloat16[Tensor, "token in_"],
    c: Float32[Tensor, "out in_"],
) -> None:
    """``c += a.T @ b`` without rounding the product to bfloat16."""
    a, b = a.contiguous(), b.contiguous()
    (tokens, out), inner = a.shape, b.shape[1]
    memory = torch.empty(padded(tokens) * (padded(out) + padded(inner)) * 2, dtype=torch.uint8)
    call("cream_add_transposed_product", a, b, c, memory, tokens, out, inner)
