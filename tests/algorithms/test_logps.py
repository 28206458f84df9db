import math

import pytest
import torch

from cream.algorithms.logps import logps_from_hidden, logps_from_logits, predictor_positions


def test_the_first_token_of_every_completion_is_predicted_by_the_last_prompt_position():
    """Prompt 0 1 2, completion A at 3 4 5 6, completion B at 7 8."""
    assert predictor_positions(3, [4, 2]) == [[2, 3, 4, 5], [2, 7]]


def test_an_empty_completion_has_no_targets_and_an_empty_prompt_is_refused():
    assert predictor_positions(2, [0, 1]) == [[], [1]]
    with pytest.raises(ValueError, match="at least one prompt token"):
        predictor_positions(0, [3])


def test_logps_of_known_logits():
    """Logits (0, ln 2, ln 3) have probabilities 1/6, 2/6, 3/6."""
    logits = torch.tensor([[0.0, math.log(2), math.log(3)]] * 3)
    got = logps_from_logits(logits, torch.tensor([0, 1, 2]))
    torch.testing.assert_close(got, torch.tensor([1 / 6, 2 / 6, 3 / 6]).log())


@pytest.mark.parametrize("rows_per_tile", [1, 3, 100])
def test_logit_gradient_equals_finite_differences(rows_per_tile):
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 6, 3, 3, 1])
    assert torch.autograd.gradcheck(
        lambda x: logps_from_logits(x, targets, rows_per_tile=rows_per_tile), (logits,)
    )


@pytest.mark.parametrize("rows_per_tile", [1, 2, 100])
@pytest.mark.parametrize("with_bias", [False, True])
def test_head_gradients_equal_finite_differences(rows_per_tile, with_bias):
    torch.manual_seed(0)
    hidden = torch.randn(5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(7, dtype=torch.float64, requires_grad=True) if with_bias else None
    targets = torch.tensor([0, 6, 3, 3, 1])
    inputs = (hidden, weight) if bias is None else (hidden, weight, bias)

    def function(h, w, b=None):
        return logps_from_hidden(h, w, targets, b, rows_per_tile=rows_per_tile)

    assert torch.autograd.gradcheck(function, inputs)


def test_a_frozen_head_gets_no_gradient_and_the_hidden_states_the_same():
    torch.manual_seed(0)
    hidden, weight = torch.randn(5, 4, requires_grad=True), torch.randn(7, 4)
    targets = torch.tensor([0, 6, 3, 3, 1])
    logps_from_hidden(hidden, weight, targets).sum().backward()
    other = hidden.detach().requires_grad_()
    torch.log_softmax(other @ weight.T, -1).gather(1, targets[:, None]).sum().backward()
    torch.testing.assert_close(hidden.grad, other.grad)
    assert weight.grad is None


def test_low_precision_inputs_get_a_float32_normaliser():
    """With 20,000 equal logits every token has probability 1/20000; in bf16 the log is off by
    up to 2^-8 * 9.9 = 0.04."""
    hidden = torch.zeros(3, 8, dtype=torch.bfloat16)
    weight = torch.zeros(20_000, 8, dtype=torch.bfloat16)
    got = logps_from_hidden(hidden, weight, torch.tensor([0, 5, 19_999]))
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, torch.full((3,), -math.log(20_000)), rtol=1e-6, atol=0)


def test_tiling_does_not_change_values():
    torch.manual_seed(0)
    hidden, weight = torch.randn(50, 8), torch.randn(300, 8)
    targets = torch.randint(300, (50,))
    whole = logps_from_hidden(hidden, weight, targets, rows_per_tile=50)
    tiled = logps_from_hidden(hidden, weight, targets, rows_per_tile=7)
    torch.testing.assert_close(whole, tiled, rtol=1e-6, atol=1e-6)


def test_no_rows_give_no_logps():
    assert (
        logps_from_hidden(torch.zeros(0, 4), torch.zeros(7, 4), torch.zeros(0).long()).numel() == 0
    )
