"""Elementwise kernels against the formula in float64, with autograd's derivative."""

import pytest
import torch
from torch.nn import functional as F

from cream.kernels import rows
from cream.kernels.library import kernels

pytestmark = pytest.mark.skipif(kernels().library is None, reason=kernels().reason)

ROUNDINGS = 4 * 2.0**-8
"""Results pass through at most four roundings to bfloat16, of half a unit in 2^-8 each."""


def values(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).bfloat16()


def plain_rms_norm(x, weight, eps):
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def plain_swiglu(gate_up):
    gate, up = gate_up.chunk(2, -1)
    return F.silu(gate) * up


def plain_rotate(x, cos, sin):
    first, second = x.chunk(2, -1)
    return x * cos[:, None] + torch.cat([-second, first], -1) * sin[:, None]


def angles(tokens: int, dim: int) -> list[torch.Tensor]:
    turns = values(tokens, dim // 2, seed=3).float().repeat(1, 2)
    return [turns.cos().bfloat16(), turns.sin().bfloat16()]


def norm_case(dim: int):
    return rows.rms_norm, plain_rms_norm, [values(37, dim), values(dim, seed=1)], [1e-5]


def gate_case(dim: int):
    return rows.swiglu, plain_swiglu, [4 * values(37, 2 * dim)], []


def rotary_case(dim: int):
    return rows.rotate, plain_rotate, [values(37, 3, 2 * dim)], angles(37, 2 * dim)


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("case", [norm_case, gate_case, rotary_case])
@pytest.mark.parametrize("dim", [1, 7, 16, 40, 576])
def test_value_and_gradients_equal_the_formula(case, dim: int):
    ours, plain, inputs, constants = case(dim)
    narrow = [x.clone().requires_grad_() for x in inputs]
    wide = [x.double().requires_grad_() for x in inputs]
    fast = ours(*narrow, *constants)
    slow = plain(*wide, *[c.double() if isinstance(c, torch.Tensor) else c for c in constants])
    upstream = values(*fast.shape, seed=2)
    fast.backward(upstream)
    slow.backward(upstream.double())
    assert relative(fast.detach(), slow.detach()) < ROUNDINGS
    for x, y in zip(narrow, wide, strict=True):
        if float(y.grad.norm()) < 1e-4:  # the norm of a single number does not depend on it
            assert float(x.grad.double().norm()) < 0.05
        else:
            assert relative(x.grad, y.grad) < ROUNDINGS


@pytest.mark.parametrize("case", [norm_case, gate_case, rotary_case])
def test_without_gradients_and_twice_the_bits_are_the_same(case):
    ours, _, inputs, constants = case(40)
    tracked = [x.clone().requires_grad_() for x in inputs]
    result = ours(*tracked, *constants)
    result.sum().backward()
    first = [x.grad.clone() for x in tracked]
    for x in tracked:
        x.grad = None
    ours(*tracked, *constants).sum().backward()
    assert all(torch.equal(x.grad, y) for x, y in zip(tracked, first, strict=True))
    with torch.no_grad():
        assert torch.equal(ours(*inputs, *constants), result)


def test_rotating_a_view_of_a_wider_stream():
    stream = values(9, 5, 16)
    cos, sin = angles(9, 16)
    view, whole = stream[:, :3], stream[:, :3].contiguous()
    assert torch.equal(rows.rotate(view, cos, sin), rows.rotate(whole, cos, sin))
    turned_back = rows.rotate(rows.rotate(view, cos, sin), cos, -sin)
    assert relative(turned_back, whole.double()) < ROUNDINGS


def test_what_is_not_a_number_stays_so():
    x = values(3, 40)
    x[1, 5] = float("nan")
    normed = rows.rms_norm(x, values(40, seed=1), 1e-5)
    assert normed.isnan().all(1).tolist() == [False, True, False]
    assert rows.swiglu(x).isnan().sum() == 1
    assert rows.log_normalisers(x, 1.0).isnan().tolist() == [False, True, False]


@pytest.mark.parametrize("vocab", [5, 16, 1000, 49152])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_normalisers_are_the_log_sum_exp(vocab: int, temperature: float):
    logits = 8 * values(6, vocab)
    logits[2, 3] = 300.0
    logits[3] -= 300.0
    logits[4, 0] = float("-inf")
    truth = (logits.double() / temperature).logsumexp(-1)
    found = rows.log_normalisers(logits, temperature).double()
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-5)
