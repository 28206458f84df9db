"""Each pass against the formula it stands for, with autograd's derivative as the reference."""

import pytest
import torch
from torch.nn import functional as F

from cream.kernels.library import kernels
from cream.models import layer_ops
from cream.models.layer_ops import rms_norm, rotate, swiglu


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


# In bfloat16, where kernels fit on some machines: with and without them, against float64.

ROUNDINGS = 4 * 2.0**-8
"""Results pass through at most four roundings to bfloat16, of half a unit in 2^-8 each."""


def narrow(*shape: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).bfloat16()


@pytest.fixture(params=["kernel", "PyTorch"])
def form(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "PyTorch":
        monkeypatch.setattr(layer_ops, "fit", lambda *tensors: False)
    elif kernels().library is None:
        pytest.skip(kernels().reason)


def angles(tokens: int, dim: int) -> list[torch.Tensor]:
    turns = narrow(tokens, dim // 2, seed=3).float().repeat(1, 2)
    return [turns.cos().bfloat16(), turns.sin().bfloat16()]


def norm_case(dim: int):
    return rms_norm, plain_rms_norm, [narrow(37, dim), narrow(dim, seed=1)], [1e-5]


def gate_case(dim: int):
    return swiglu, plain_swiglu, [4 * narrow(37, 2 * dim)], []


def rotary_case(dim: int):
    return rotate, plain_rotate, [narrow(37, 3, 2 * dim)], angles(37, 2 * dim)


def relative(found: torch.Tensor, truth: torch.Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


@pytest.mark.parametrize("case", [norm_case, gate_case, rotary_case])
@pytest.mark.parametrize("dim", [1, 7, 16, 40, 576])
@pytest.mark.usefixtures("form")
def test_value_and_gradients_equal_the_formula_in_bfloat16(case, dim: int):
    ours, plain, inputs, constants = case(dim)
    given = [x.clone().requires_grad_() for x in inputs]
    wide = [x.double().requires_grad_() for x in inputs]
    fast = ours(*given, *constants)
    slow = plain(*wide, *[c.double() if isinstance(c, torch.Tensor) else c for c in constants])
    upstream = narrow(*fast.shape, seed=2)
    fast.backward(upstream)
    slow.backward(upstream.double())
    assert relative(fast.detach(), slow.detach()) < ROUNDINGS
    for x, y in zip(given, wide, strict=True):
        if float(y.grad.norm()) < 1e-4:  # the norm of a single number does not depend on it
            assert float(x.grad.double().norm()) < 0.05
        else:
            assert relative(x.grad, y.grad) < ROUNDINGS


@pytest.mark.parametrize("case", [norm_case, gate_case, rotary_case])
@pytest.mark.usefixtures("form")
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


@pytest.mark.usefixtures("form")
def test_rotating_a_view_of_a_wider_stream():
    stream = narrow(9, 5, 16)
    cos, sin = angles(9, 16)
    view, whole = stream[:, :3], stream[:, :3].contiguous()
    assert torch.equal(rotate(view, cos, sin), rotate(whole, cos, sin))
    turned_back = rotate(rotate(view, cos, sin), cos, -sin)
    assert relative(turned_back, whole.double()) < ROUNDINGS


@pytest.mark.usefixtures("form")
def test_what_is_not_a_number_stays_so():
    x = narrow(3, 40)
    x[1, 5] = float("nan")
    normed = rms_norm(x, narrow(40, seed=1), 1e-5)
    assert normed.isnan().all(1).tolist() == [False, True, False]
    assert swiglu(x).isnan().sum() == 1


@pytest.mark.parametrize("case", [norm_case, gate_case, rotary_case])
@pytest.mark.usefixtures("form")
def test_a_row_does_not_depend_on_the_others(case):
    ours, _, (x, *others), constants = case(40)
    first = [c[:1] if isinstance(c, torch.Tensor) else c for c in constants]
    assert torch.equal(ours(x[:1], *others, *first), ours(x, *others, *constants)[:1])


@pytest.mark.parametrize("case", [norm_case, gate_case, rotary_case])
@pytest.mark.usefixtures("form")
def test_an_expanded_gradient_is_read_like_a_stored_one(case):
    ours, _, inputs, constants = case(40)
    found = []
    for expanded in (True, False):
        tracked = [x.clone().requires_grad_() for x in inputs]
        out = ours(*tracked, *constants)
        ones = torch.ones(1, dtype=out.dtype).expand(out.shape)
        out.backward(ones if expanded else ones.contiguous())
        found.append([x.grad for x in tracked])
    assert all(torch.equal(x, y) for x, y in zip(*found, strict=True))


@pytest.mark.usefixtures("form")
def test_no_rows_leave_the_weight_without_a_gradient():
    weight = narrow(40).requires_grad_()
    rms_norm(narrow(0, 40), weight, 1e-5).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, torch.zeros_like(weight))
    assert swiglu(narrow(0, 80)).shape == (0, 40)
    assert rotate(narrow(0, 3, 16), narrow(0, 16), narrow(0, 16)).shape == (0, 3, 16)


@pytest.mark.usefixtures("form")
def test_eps_bounds_the_norm_of_small_numbers():
    x, weight = (narrow(5, 40) * 0.1).requires_grad_(), narrow(40, seed=1)
    wide = x.detach().double().requires_grad_()
    fast, slow = rms_norm(x, weight, 0.01), plain_rms_norm(wide, weight.double(), 0.01)
    upstream = narrow(5, 40, seed=2)
    fast.backward(upstream)
    slow.backward(upstream.double())
    assert x.grad is not None
    assert wide.grad is not None
    assert relative(fast.detach(), slow.detach()) < ROUNDINGS
    assert relative(x.grad, wide.grad) < ROUNDINGS
    nothing = torch.zeros(2, 40, dtype=torch.bfloat16)
    assert torch.equal(rms_norm(nothing, weight, 1e-5), nothing)


@pytest.mark.usefixtures("form")
def test_a_gate_far_from_zero_is_shut_or_open():
    gate, up = torch.tensor([-1e4, -200.0, 200.0, 1e4]), torch.tensor([3.0, -2.0, 3.0, -2.0])
    both = torch.cat([gate, up])[None].bfloat16().requires_grad_()
    wide = both.detach().double().requires_grad_()
    fast, slow = swiglu(both), plain_swiglu(wide)
    fast.sum().backward()
    slow.sum().backward()
    assert both.grad is not None
    torch.testing.assert_close(fast.double(), slow, rtol=2 * 2.0**-8, atol=1e-30)
    torch.testing.assert_close(both.grad.double(), wide.grad, rtol=2 * 2.0**-8, atol=1e-30)


@pytest.mark.usefixtures("form")
def test_a_rotation_keeps_lengths():
    x = narrow(37, 3, 48)
    cos, sin = angles(37, 48)
    turned = rotate(x, cos, sin)
    assert not torch.equal(turned, x)
    # Half a unit of 2^-8 each: the cosines and sines, then the result.
    torch.testing.assert_close(
        turned.double().norm(dim=-1), x.double().norm(dim=-1), rtol=2.0**-8, atol=0
    )


@pytest.mark.usefixtures("form")
def test_the_gradient_of_a_rotated_view_goes_to_that_view_alone():
    stream = narrow(9, 5, 16).requires_grad_()
    wide = stream.detach().double().requires_grad_()
    cos, sin = angles(9, 16)
    upstream = narrow(9, 3, 16, seed=2)
    rotate(stream[:, 1:4], cos, sin).backward(upstream)
    plain_rotate(wide[:, 1:4], cos.double(), sin.double()).backward(upstream.double())
    assert stream.grad is not None
    assert wide.grad is not None
    assert relative(stream.grad, wide.grad) < ROUNDINGS
    assert not stream.grad[:, [0, 4]].any()


@pytest.mark.parametrize("case", [norm_case, gate_case, rotary_case])
@pytest.mark.usefixtures("form")
def test_a_gradient_that_is_not_a_number_stays_in_its_row(case):
    ours, _, (x, *others), constants = case(40)
    x = x.clone().requires_grad_()
    out = ours(x, *others, *constants)
    upstream = torch.ones_like(out)
    upstream[1].view(-1)[5] = float("nan")
    out.backward(upstream)
    assert x.grad.isnan().flatten(1).any(1).nonzero().flatten().tolist() == [1]
