"""The gradient of a weight against the same product in float64."""

import pytest
import torch

from cream.kernels.layer_ops import add_transposed_product
from cream.kernels.library import kernels

pytestmark = pytest.mark.skipif(kernels().library is None, reason=kernels().reason)

SIZES = [(1, 32, 64), (33, 70, 45), (5, 1, 1), (1100, 96, 64), (2100, 33, 40)]
"""Tokens, outputs, inputs; the last is more tokens than are added up between two visits."""


def factors(tokens: int, out: int, inner: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    a = torch.randn(tokens, out, generator=generator).bfloat16()
    return a, torch.randn(tokens, inner, generator=generator).bfloat16()


@pytest.mark.parametrize("size", SIZES)
def test_the_product_is_added_in_float32(size):
    a, b = factors(*size)
    before = torch.randn(size[1:], generator=torch.Generator().manual_seed(0))
    total = before.clone()
    add_transposed_product(a, b, total)
    truth = before.double() + a.double().T @ b.double()
    # Products of bfloat16 are exact in float32: what is lost is the rounding of the sums.
    assert float((total - truth).abs().max()) < 2.0**-20 * size[0] ** 0.5 * 30


def test_nothing_beside_the_sum_is_touched():
    a, b = factors(33, 70, 45)
    room = torch.full((72, 45), 7.0)
    add_transposed_product(a, b, room[1:71])
    assert bool((room[0] == 7).all())
    assert bool((room[71] == 7).all())


def test_factors_that_are_views_are_read_as_they_are():
    a, b = factors(40, 64, 64)
    total, other = torch.zeros(32, 32), torch.zeros(32, 32)
    add_transposed_product(a[:, ::2], b[:, 32:], total)
    add_transposed_product(a[:, ::2].contiguous(), b[:, 32:].contiguous(), other)
    assert torch.equal(total, other)


def test_the_product_of_one_token_is_exact():
    a, b = factors(1, 70, 45)
    total = torch.zeros(70, 45)
    add_transposed_product(a, b, total)
    assert torch.equal(total, a[0, :, None].float() * b[0].float())


@pytest.mark.parametrize("size", SIZES)
def test_the_bits_are_the_same_every_time(size):
    a, b = factors(*size)
    totals = [torch.ones(size[1:]) for _ in range(2)]
    for total in totals:
        add_transposed_product(a, b, total)
    assert torch.equal(*totals)
