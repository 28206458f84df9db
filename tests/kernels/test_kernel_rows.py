"""The log-sum-exp kernel against float64."""

import pytest
import torch

from cream.kernels import layer_ops
from cream.kernels.library import kernels

pytestmark = pytest.mark.skipif(kernels().library is None, reason=kernels().reason)


def values(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).bfloat16()


@pytest.mark.parametrize("vocab", [5, 16, 1000, 49152])
@pytest.mark.parametrize("temperature", [0.7, 1.0])
def test_log_normalisers_are_the_log_sum_exp(vocab: int, temperature: float):
    logits = 8 * values(6, vocab)
    logits[2, 3] = 300.0
    logits[3] -= 300.0
    logits[4, 0] = float("-inf")
    truth = (logits.double() / temperature).logsumexp(-1)
    found = layer_ops.log_normalisers(logits, temperature).double()
    torch.testing.assert_close(found, truth, rtol=1e-6, atol=1e-5)


def test_many_large_logits_do_not_overflow():
    logits = torch.full((2, 1000), 300.0).bfloat16()
    logits[1, ::2] = float("-inf")
    truth = (logits.double() / 0.7).logsumexp(-1)
    found = layer_ops.log_normalisers(logits, 0.7).double()
    torch.testing.assert_close(found, truth, rtol=2.0**-22, atol=0)  # float32


@pytest.mark.parametrize("vocab", [3, 40])
def test_what_is_not_finite_is_told(vocab: int):
    logits = values(4, vocab)
    logits[0] = float("-inf")
    logits[1, 1] = float("inf")
    logits[2, 1] = float("nan")
    truth = logits.float().logsumexp(-1)
    torch.testing.assert_close(layer_ops.log_normalisers(logits, 1.0), truth, equal_nan=True)
