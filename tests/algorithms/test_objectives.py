import math

import pytest
import torch

from cream.algorithms import objectives as o
from cream.algorithms.objectives import PairLogps

BETA = 0.1


def pair_with_margin(x, beta=BETA, dtype=torch.float64):
    """Policy and reference whose scaled margin is x: the policy gap is x / beta."""
    x = torch.as_tensor(x, dtype=dtype)
    zero = torch.zeros_like(x)
    return PairLogps(x / beta, zero), PairLogps(zero, zero)


def gradient_in_x(loss, x):
    """d loss / dx by autograd: the policy gap moves x by beta."""
    chosen = (torch.as_tensor(x, dtype=torch.float64) / BETA).requires_grad_()
    zero = torch.zeros_like(chosen)
    loss(PairLogps(chosen, zero), PairLogps(zero, zero)).sum().backward()
    assert chosen.grad is not None
    return chosen.grad / BETA


def test_dpo_by_hand():
    """beta 0.1, policy gap -20 - -28 = 8, reference gap -24 - -30 = 6: x = 0.2,
    -log sigmoid(0.2) = ln(1 + e^-0.2) = 0.598139."""
    policy = PairLogps(torch.tensor([-20.0]), torch.tensor([-28.0]))
    reference = PairLogps(torch.tensor([-24.0]), torch.tensor([-30.0]))
    loss = o.dpo(policy, reference, beta=0.1)
    torch.testing.assert_close(loss, torch.tensor([0.598139]), atol=1e-6, rtol=0)


def test_every_margin_loss_is_ln2_where_policy_equals_reference():
    same = PairLogps(torch.tensor([-3.0, -9.0]), torch.tensor([-5.0, -2.0]))
    ln2 = torch.full((2,), math.log(2))
    torch.testing.assert_close(o.dpo(same, same, beta=BETA), ln2)
    torch.testing.assert_close(
        o.cream(same, same, beta=BETA, consistency=torch.tensor([0.3, 0.9])), ln2
    )
    torch.testing.assert_close(o.conservative_dpo(same, same, beta=BETA, label_smoothing=0.2), ln2)
    torch.testing.assert_close(o.robust_dpo(same, same, beta=BETA, label_smoothing=0.2), ln2)


@pytest.mark.parametrize("c", [0.0, 0.25, 0.5, 0.73, 1.0])
def test_cream_is_the_mixture_of_dpo_and_reversed_dpo(c):
    """C (-log s(x)) + (1 - C)(-log s(-x)), written out with the reversed pair."""
    policy, reference = pair_with_margin([-3.0, -0.2, 0.0, 0.7, 4.0])
    flipped = PairLogps(policy.rejected, policy.chosen)
    flipped_reference = PairLogps(reference.rejected, reference.chosen)
    mixture = c * o.dpo(policy, reference, beta=BETA) + (1 - c) * o.dpo(
        flipped, flipped_reference, beta=BETA
    )
    consistency = torch.full((5,), c, dtype=torch.float64)
    got = o.cream(policy, reference, beta=BETA, consistency=consistency)
    torch.testing.assert_close(got, mixture)
    smoothed = o.conservative_dpo(policy, reference, beta=BETA, label_smoothing=1 - consistency)
    torch.testing.assert_close(got, smoothed)


def test_cream_gradient_is_sigmoid_minus_c_and_vanishes_at_logit_c():
    """logit 0.92 = 2.4423, logit 0.73 = 0.9946; at x = 0 and C = 1/2 the gradient is exactly 0."""
    c = torch.tensor([0.92, 0.73, 0.5, 0.2], dtype=torch.float64)
    x = torch.tensor([1.0, -2.0, 0.0, 0.3], dtype=torch.float64)
    loss = lambda p, r: o.cream(p, r, beta=BETA, consistency=c)  # noqa: E731
    torch.testing.assert_close(gradient_in_x(loss, x), torch.sigmoid(x) - c)
    assert gradient_in_x(loss, x)[2].item() == 0.0
    at_fixed_point = gradient_in_x(loss, torch.logit(c))
    torch.testing.assert_close(at_fixed_point, torch.zeros(4).double(), atol=1e-12, rtol=0)
    assert torch.logit(c)[:2].tolist() == pytest.approx([2.4423, 0.9946], abs=1e-4)


def test_weighted_dpo_shares_creams_gradient_at_zero_margin_and_nowhere_else():
    """At x = 0: (2C - 1)(1/2 - 1) = 1/2 - C. At x = 2, C = 0.8: 0.6 (s(2) - 1) = -0.0715,
    CREAM's is s(2) - 0.8 = 0.0808."""
    c = torch.tensor([0.8], dtype=torch.float64)
    weighted = lambda p, r: o.weighted_dpo(p, r, beta=BETA, weight=2 * c - 1)  # noqa: E731
    softened = lambda p, r: o.cream(p, r, beta=BETA, consistency=c)  # noqa: E731
    torch.testing.assert_close(gradient_in_x(weighted, [0.0]), gradient_in_x(softened, [0.0]))
    assert gradient_in_x(weighted, [2.0]).item() == pytest.approx(-0.071522, abs=1e-6)
    assert gradient_in_x(softened, [2.0]).item() == pytest.approx(0.080797, abs=1e-6)


def test_robust_dpo_is_unbiased_under_flips_and_is_not_conservative():
    """(1 - e) robust(pair) + e robust(flipped pair) = DPO(pair), whatever x."""
    e = 0.2
    policy, reference = pair_with_margin([-1.5, 0.4, 3.0])
    flipped, flipped_reference = pair_with_margin([1.5, -0.4, -3.0])
    robust = o.robust_dpo(policy, reference, beta=BETA, label_smoothing=e)
    other = o.robust_dpo(flipped, flipped_reference, beta=BETA, label_smoothing=e)
    torch.testing.assert_close((1 - e) * robust + e * other, o.dpo(policy, reference, beta=BETA))
    conservative = o.conservative_dpo(policy, reference, beta=BETA, label_smoothing=e)
    assert (robust - conservative).abs().min() > 0.05


def test_flipping_each_pair_with_probability_1_minus_c_estimates_cream():
    """The expectation of DPO under random flips is CREAM, so any DPO trainer can take an export."""
    c = 0.7
    policy, reference = pair_with_margin([0.9])
    flipped, _ = pair_with_margin([-0.9])
    generator = torch.Generator().manual_seed(0)
    flips = torch.rand(200_000, generator=generator) > c
    sampled = torch.where(
        flips, o.dpo(flipped, reference, beta=BETA), o.dpo(policy, reference, beta=BETA)
    )
    exact = o.cream(policy, reference, beta=BETA, consistency=torch.tensor([c]).double())
    # Standard error: 0.9 * sqrt(0.21 / 200000) = 0.0009.
    assert sampled.mean().item() == pytest.approx(exact.item(), abs=0.004)


def test_dpo_plus_preference_kl_is_cream_with_c_lambda():
    """L + lambda (L + L_reversed) = (1 + 2 lambda) [C L + (1 - C) L_rev], C = (1+l)/(1+2l):
    the theory of section 1, up to the constant 2 lambda ln 2 of 2 KL(uniform || P)."""
    lam = 0.5
    policy, reference = pair_with_margin([-2.0, 0.3, 1.1])
    flipped = PairLogps(policy.rejected, policy.chosen)
    plain, reverse = (o.dpo(p, reference, beta=BETA) for p in (policy, flipped))
    c = torch.full((3,), (1 + lam) / (1 + 2 * lam), dtype=torch.float64)
    assert c[0].item() == 0.75
    got = (1 + 2 * lam) * o.cream(policy, reference, beta=BETA, consistency=c)
    torch.testing.assert_close(got, plain + lam * (plain + reverse))


def test_ipo_by_hand():
    """h = 8 - 6 = 2, target 1 / 0.2 = 5: (2 - 5)^2 = 9."""
    policy = PairLogps(torch.tensor([-20.0]), torch.tensor([-28.0]))
    reference = PairLogps(torch.tensor([-24.0]), torch.tensor([-30.0]))
    torch.testing.assert_close(o.ipo(policy, reference, beta=0.1), torch.tensor([9.0]))


def test_length_normalised_dpo_by_hand_and_with_unit_lengths():
    """(4 / 2 - 2 / 4) = 1.5, beta 2: -log s(3) = 0.048587. With lengths 1 it is DPO."""
    policy = PairLogps(torch.tensor([-20.0]), torch.tensor([-28.0]))
    reference = PairLogps(torch.tensor([-24.0]), torch.tensor([-30.0]))
    got = o.length_normalised_dpo(
        policy,
        reference,
        beta=2.0,
        chosen_lengths=torch.tensor([2.0]),
        rejected_lengths=torch.tensor([4.0]),
    )
    torch.testing.assert_close(got, torch.tensor([0.048587]), atol=1e-6, rtol=0)
    one = torch.ones(1)
    unit = o.length_normalised_dpo(
        policy, reference, beta=0.1, chosen_lengths=one, rejected_lengths=one
    )
    torch.testing.assert_close(unit, o.dpo(policy, reference, beta=0.1))


def test_simpo_by_hand():
    """beta 2 (-20/10 - -28/7) = 2 (-2 + 4) = 4, gamma 1: -log s(3) = 0.048587."""
    policy = PairLogps(torch.tensor([-20.0]), torch.tensor([-28.0]))
    got = o.simpo(
        policy,
        beta=2.0,
        target_margin=1.0,
        chosen_lengths=torch.tensor([10.0]),
        rejected_lengths=torch.tensor([7.0]),
    )
    torch.testing.assert_close(got, torch.tensor([0.048587]), atol=1e-6, rtol=0)


def test_chosen_nll_is_a_mean_per_token():
    policy = PairLogps(torch.tensor([-20.0]), torch.tensor([-28.0]))
    torch.testing.assert_close(o.chosen_nll(policy, torch.tensor([8.0])), torch.tensor([2.5]))


def test_kl_estimators_by_hand_ignore_padding():
    """log pi - log ref = (ln 2, 0): k1 = ln 2 / 2; k3: r = (1/2, 1),
    ((1/2 - 1 + ln 2) + 0) / 2 = 0.0965736."""
    policy = torch.tensor([[-1.0, -2.0, 99.0]])
    reference = torch.tensor([[-1.0 - math.log(2), -2.0, -50.0]])
    mask = torch.tensor([[True, True, False]])
    k1 = o.token_kl_k1(policy, reference, mask)
    k3 = o.token_kl_k3(policy, reference, mask)
    torch.testing.assert_close(k1, torch.tensor([math.log(2) / 2]))
    torch.testing.assert_close(k3, torch.tensor([0.0965736]), atol=1e-6, rtol=0)


def test_kl_estimators_are_unbiased_on_tokens_of_the_policy():
    """E_pi[k1] = E_pi[k3] = KL, summed exactly over a vocabulary of three."""
    pi = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    ref = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    kl = (pi * (pi / ref).log()).sum()
    mask = torch.ones(3, 1, dtype=torch.bool)
    for estimator in (o.token_kl_k1, o.token_kl_k3):
        per_token = estimator(pi.log()[:, None], ref.log()[:, None], mask)
        torch.testing.assert_close((pi * per_token).sum(), kl)


def test_k3_pulls_towards_the_reference_and_k1_does_not_see_it():
    policy = torch.tensor([[-1.0, -3.0]], dtype=torch.float64, requires_grad=True)
    reference = torch.tensor([[-2.0, -2.0]], dtype=torch.float64)
    mask = torch.ones(1, 2, dtype=torch.bool)
    (k3,) = torch.autograd.grad(o.token_kl_k3(policy, reference, mask).sum(), policy)
    torch.testing.assert_close(k3, (1 - (reference - policy.detach()).exp()) / 2)
    assert k3[0, 0] > 0 > k3[0, 1]
    (k1,) = torch.autograd.grad(o.token_kl_k1(policy, reference, mask).sum(), policy)
    torch.testing.assert_close(k1, torch.full_like(k1, 0.5))


LENGTHS = {
    "chosen_lengths": torch.tensor([3.0, 5.0]).double(),
    "rejected_lengths": torch.tensor([4.0, 2.0]).double(),
}
C2 = torch.tensor([0.4, 0.9]).double()
LOSSES = {
    "dpo": lambda p, r: o.dpo(p, r, beta=0.5),
    "conservative_dpo": lambda p, r: o.conservative_dpo(p, r, beta=0.5, label_smoothing=0.1),
    "cream": lambda p, r: o.cream(p, r, beta=0.5, consistency=C2),
    "ipo": lambda p, r: o.ipo(p, r, beta=0.5),
    "weighted_dpo": lambda p, r: o.weighted_dpo(p, r, beta=0.5, weight=2 * C2 - 1),
    "robust_dpo": lambda p, r: o.robust_dpo(p, r, beta=0.5, label_smoothing=0.1),
    "length_normalised_dpo": lambda p, r: o.length_normalised_dpo(p, r, beta=0.5, **LENGTHS),
    "simpo": lambda p, r: o.simpo(p, beta=2.0, target_margin=0.5, **LENGTHS),
    "chosen_nll": lambda p, r: o.chosen_nll(p, LENGTHS["chosen_lengths"]),
}


@pytest.mark.parametrize("name", LOSSES)
def test_gradients_equal_finite_differences(name):
    torch.manual_seed(0)
    numbers = [torch.randn(2, dtype=torch.float64, requires_grad=True) for _ in range(4)]

    def function(a, b, c, d):
        return LOSSES[name](PairLogps(a, b), PairLogps(c, d))

    assert torch.autograd.gradcheck(function, numbers)


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_losses_and_gradients_are_finite_far_away(name, size):
    chosen = torch.tensor([size, size], requires_grad=True)
    zero = torch.zeros(2)
    loss = LOSSES[name](PairLogps(chosen, zero), PairLogps(zero, zero))
    loss.sum().backward()
    assert loss.isfinite().all()
    assert chosen.grad is not None
    assert chosen.grad.isfinite().all()


def test_no_gradient_reaches_a_pair_through_another():
    """One value per pair: the gradient of pair 0's loss in pair 1 is zero."""
    chosen = torch.tensor([1.0, 2.0], requires_grad=True)
    zero = torch.zeros(2)
    consistency = torch.tensor([0.9, 0.6])
    loss = o.cream(
        PairLogps(chosen, zero), PairLogps(zero, zero), beta=BETA, consistency=consistency
    )
    loss[0].backward()
    assert chosen.grad is not None
    assert chosen.grad[1] == 0 != chosen.grad[0]


def test_metrics_have_trls_meaning_and_no_gradient():
    policy = PairLogps(torch.tensor([-20.0, -9.0], requires_grad=True), torch.tensor([-28.0, -8.0]))
    reference = PairLogps(torch.tensor([-24.0, -9.0]), torch.tensor([-30.0, -9.0]))
    metrics = o.preference_metrics(policy, reference, beta=0.1)
    torch.testing.assert_close(metrics["rewards/chosen"], torch.tensor([0.4, 0.0]))
    torch.testing.assert_close(metrics["rewards/rejected"], torch.tensor([0.2, 0.1]))
    torch.testing.assert_close(metrics["rewards/margins"], torch.tensor([0.2, -0.1]))
    assert metrics["rewards/accuracies"].tolist() == [1.0, 0.0]
    assert metrics["logps/chosen"].tolist() == [-20.0, -9.0]
    assert not any(value.requires_grad for value in metrics.values())
