"""SCIR's loss: the worked values of its page, identities, gradients, and what must catch errors."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import softplus

from cream.algorithms.scir import (
    agreed_sign,
    capped_entropy,
    divergence,
    entropy,
    position_bias,
    scir_pair_loss,
    verdict_logit,
)


def t(*values: float, grad: bool = False) -> Tensor:
    return torch.tensor(values, dtype=torch.float64, requires_grad=grad)


@pytest.mark.parametrize(
    ("a", "b", "j", "ha", "hb", "ja", "jb", "loss"),
    [
        (0.8, -0.4, 0.346395, 0.619121, 0.673540, 0.545354, -0.576975, 0.475661),
        (2.0, 1.0, 0.149738, 0.365334, 0.582203, 0.254732, -0.346350, 0.371420),
        (0.0, 0.5, 0.061230, math.log(2), 0.662848, -0.247459, 0.239961, 0.196829),
        (0.6, 0.6, 0.0, 0.650, 0.650, 0.0, 0.0, 0.567507),
    ],
)
def test_worked_values(a, b, j, ha, hb, ja, jb, loss):
    """x = a; lambda 1, gamma 0.1. H of (0, 0.5) and (0.6, 0.6) to three digits by hand."""
    za, zb = t(a, grad=True), t(b, grad=True)
    found = divergence(za, zb)
    found.sum().backward()

    assert found.item() == pytest.approx(j, abs=1e-6)
    assert entropy(t(a)).item() == pytest.approx(ha, abs=2e-3)
    assert entropy(t(b)).item() == pytest.approx(hb, abs=2e-3)
    assert za.grad is not None
    assert zb.grad is not None
    assert za.grad.item() == pytest.approx(ja, abs=1e-6)
    assert zb.grad.item() == pytest.approx(jb, abs=1e-3 if a == 0 else 1e-6)
    assert scir_pair_loss(t(a), t(b), t(a)).item() == pytest.approx(loss, abs=1e-6)


def test_entropies_of_the_first_two_examples_to_six_digits():
    found = entropy(t(0.8, -0.4, 2.0, 1.0))
    assert found.tolist() == pytest.approx([0.619121, 0.673540, 0.365334, 0.582203], abs=1e-6)


def test_near_zero_the_divergence_is_a_quarter_of_the_square():
    assert divergence(t(0.01), t(-0.01)).item() == pytest.approx(9.9999e-5, rel=1e-4)


def test_the_divergence_is_both_kullback_leiblers():
    a, b = torch.randn(50, dtype=torch.float64), torch.randn(50, dtype=torch.float64)
    p, q = a.sigmoid(), b.sigmoid()

    def kl(one: Tensor, other: Tensor) -> Tensor:
        return one * (one / other).log() + (1 - one) * ((1 - one) / (1 - other)).log()

    assert torch.allclose(divergence(a, b), kl(p, q) + kl(q, p))
    assert kl(t(-0.4).sigmoid(), t(0.8).sigmoid()).item() == pytest.approx(0.176511, abs=1e-6)
    assert kl(t(1.0).sigmoid(), t(2.0).sigmoid()).item() == pytest.approx(0.082608, abs=1e-6)


def test_a_judge_without_gradient_is_cream_on_the_reward_margin_with_c_from_the_judge():
    """KL(p_G || p_I) = C softplus(-a) + (1 - C) softplus(a) - H(b); gradient sigmoid(a) - C."""
    a, b = t(0.8, 2.0, -1.0, grad=True), t(-0.4, 1.0, 0.3)
    c = b.sigmoid()
    cream = c * softplus(-a) + (1 - c) * softplus(a)
    assert (cream - entropy(b))[0].item() == pytest.approx(0.176511, abs=1e-6)
    cream.sum().backward()
    assert a.grad is not None
    assert torch.allclose(a.grad, a.detach().sigmoid() - c)


def test_gradients_in_closed_form_and_by_finite_differences():
    a, b = t(0.8, -1.5, 2.0, grad=True), t(-0.4, 0.2, 2.5, grad=True)
    x = t(0.3, -0.7, 1.1, grad=True)
    assert torch.autograd.gradcheck(lambda *z: scir_pair_loss(*z), (a, b, x))
    z = t(0.8, -1.5, grad=True)
    entropy(z).sum().backward()
    d = z.detach()
    assert z.grad is not None
    assert torch.allclose(z.grad, -d * d.sigmoid() * (-d).sigmoid())


def test_exchanging_the_answers_changes_nothing_and_a_place_preference_neither():
    a, b, x = t(0.8, 0.6), t(-0.4, 0.3), t(0.2, -0.9)
    assert torch.allclose(scir_pair_loss(a, b, x), scir_pair_loss(-a, -b, -x))
    d12, d21 = t(1.5), t(0.3)
    assert torch.allclose(verdict_logit(d12 + 7, d21 + 7), verdict_logit(d12, d21))


def test_the_verdict_is_half_the_difference_of_the_orders_and_not_a_mean_of_probabilities():
    d12, d21 = t(1.5), t(0.3)
    b = verdict_logit(d12, d21)

    assert b.item() == pytest.approx(0.6)
    assert position_bias(d12, d21).item() == pytest.approx(0.9)
    assert b.sigmoid().item() == pytest.approx(0.645656, abs=1e-6)
    averaged = (d12.sigmoid() + 1 - d21.sigmoid()) / 2
    assert averaged.item() == pytest.approx(0.621566, abs=1e-6)
    assert verdict_logit(d12, d21, temperature=2.0).item() == pytest.approx(0.3)


def test_labels_exchanged_in_one_order_only_turn_the_preference_into_the_bias():
    """d21 with its labels exchanged is -d21: what comes out is c, which knows no answer."""
    d12, d21 = torch.randn(400), torch.randn(400)
    assert torch.allclose(verdict_logit(d12, -d21), position_bias(d12, d21))
    known = torch.randn(400).sign()
    bias = torch.full((400,), 2.0)
    right = verdict_logit(bias + known, bias - known).sign() == known
    wrong = verdict_logit(bias + known, -(bias - known)).sign() == known
    assert right.float().mean() == 1.0
    assert abs(wrong.float().mean() - 0.5) < 0.1


def test_only_what_both_prefer_clearly_is_a_label_and_a_tie_is_none():
    a, b = t(1.0, -1.0, 1.0, 0.0, 1.0), t(2.0, -2.0, -1.0, 1.0, 0.1)
    assert agreed_sign(a, b, margin=0.0).tolist() == [1, -1, 0, 0, 1]
    assert agreed_sign(a, b, margin=0.1).tolist() == [1, -1, 0, 0, 0]


def test_where_no_pair_agrees_there_is_no_preference_and_the_loss_is_finite():
    a, b, x = t(1.0, -3.0), t(-1.0, 2.0), t(500.0, -900.0, grad=True)
    loss = scir_pair_loss(a, b, x)
    loss.sum().backward()
    assert loss.isfinite().all()
    assert x.grad is not None
    assert x.grad.tolist() == [0, 0]
    off = scir_pair_loss(a, b, x, consistency_weight=0.0)
    assert off.tolist() == [0, 0]


def test_lambda_zero_leaves_dpo_on_the_agreed_order():
    x = t(0.7, 0.7)
    loss = scir_pair_loss(t(1.0, -1.0), t(1.0, -1.0), x, consistency_weight=0.0)
    assert torch.allclose(loss, softplus(t(-0.7, 0.7)))


def test_a_pair_without_a_verdict_costs_nothing():
    loss = scir_pair_loss(t(1.0, 1.0), t(1.0, 1.0), t(0.5, 0.5), judged=torch.tensor([True, False]))
    assert loss[0] > 0
    assert loss[1] == 0


def test_one_step_on_the_divergence_brings_the_judges_nearer_and_on_the_entropy_apart_from_half():
    """A wrong sign of either fails here."""
    a, b = t(0.8, grad=True), t(-0.4, grad=True)
    divergence(a, b).sum().backward()
    assert a.grad is not None
    assert b.grad is not None
    nearer = (a - 0.1 * a.grad) - (b - 0.1 * b.grad)
    assert nearer.abs().item() < 1.2
    for start in (0.8, -0.8):
        z = t(start, grad=True)
        entropy(z).sum().backward()
        assert z.grad is not None
        assert (z - 0.1 * z.grad).abs().item() > 0.8


def test_beyond_the_cap_the_entropy_no_longer_pulls():
    """logit 0.95 = 2.944."""
    z = t(2.9, 3.0, -3.0, grad=True)
    value = capped_entropy(z, cap=0.95)
    value.sum().backward()
    assert value[1].item() == pytest.approx(0.198515, abs=1e-6)
    assert z.grad is not None
    assert z.grad[0] < 0
    assert z.grad[1:].tolist() == [0, 0]
