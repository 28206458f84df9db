"""Each pass against the formula it stands for, with autograd's derivative as the reference."""

import pytest
import torch
from torch.nn import functional as F

from cream.models.passes import rms_norm, rotate, swiglu


def plain_rms_norm(x, weight, eps):
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def plain_swiglu(gate_up):
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def plain_rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


def values(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CASES = {
    "rms_norm": (rms_norm, plain_rms_norm, [values(5, 8), values(8, seed=1)], [1e-5]),
    "swiglu": (swiglu, plain_swiglu, [values(5, 12)], []),
    "rotate": (rotate, plain_rotate, [values(5, 3, 8)], [values(5, 8, seed=1), values(5, 8)]),
}


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients_equal_the_formula(case):
    ours, plain, inputs, constants = CASES[case]
    inputs = [x.clone().requires_grad_() for x in inputs]
    fast, slow = ours(*inputs, *constants), plain(*inputs, *constants)
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)

    upstream = values(*fast.shape, seed=7)
    expected = torch.autograd.grad(slow, inputs, upstream)
    for got, wanted in zip(torch.autograd.grad(fast, inputs, upstream), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", CASES)
def test_without_gradients_the_value_is_the_same(case):
    ours, _, inputs, constants = CASES[case]
    recorded = ours(*[x.clone().requires_grad_() for x in inputs], *constants)
    before = [x.clone() for x in inputs]

    with torch.no_grad():
        assert torch.equal(ours(*inputs, *constants), recorded.detach())

    for x, y in zip(inputs, before, strict=True):
        assert torch.equal(x, y)


def test_the_norm_of_bfloat16_is_taken_in_float32():
    x = torch.ones(1, 258, dtype=torch.bfloat16)
    x[0, 0] = 0
    wide = x.float() / x.float().pow(2).mean().sqrt()

    out = rms_norm(x, torch.ones(258, dtype=torch.bfloat16), 0.0)

    assert torch.equal(out, wide.bfloat16())
