import math

import pytest
import torch

from cream.algorithms.objective import ObjectiveInputs, SequenceInputs
from cream.algorithms.policy_gradient import (
    clipped_share,
    clipped_surrogate,
    divergence,
    geometric_ratio,
    k1,
    k2,
    k3,
    policy_gradient,
    product_ratio,
    sample_roles,
    surrogate,
    token_entropy,
    token_ratio,
)

GAPS = (0.3, 0.1, -0.1, 0.5)
"""Token log-ratios of the worked values."""


def table(*rows):
    """Rows of unequal length as a padded float64 table with its mask."""
    width = max(map(len, rows))
    values = torch.zeros(len(rows), width, dtype=torch.float64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for i, row in enumerate(rows):
        values[i, : len(row)] = torch.tensor(row, dtype=torch.float64)
        mask[i, : len(row)] = True
    return values, mask


def test_ratios_by_hand():
    """Sum .8, mean .2 over four tokens: e^.8 = 2.2255, e^.2 = 1.2214."""
    policy, mask = table(GAPS, (1.0,))
    start = torch.zeros_like(policy)
    torch.testing.assert_close(product_ratio(policy, start, mask)[0].item(), math.exp(0.8))
    torch.testing.assert_close(geometric_ratio(policy, start, mask)[0].item(), math.exp(0.2))
    per_token = token_ratio(policy, start, mask)
    torch.testing.assert_close(per_token[0].log(), torch.tensor(GAPS, dtype=torch.float64))
    assert product_ratio(policy, start, mask)[1] == geometric_ratio(policy, start, mask)[1]
    assert per_token[1].tolist()[1:] == [1, 1, 1]


@pytest.mark.parametrize(
    ("ratio", "good", "bad"),
    [
        (product_ratio, -1.2, 2.2255),
        (geometric_ratio, -1.2, 1.2214),
        (token_ratio, -1.1025, 1.2521),
    ],
)
def test_clipped_surrogate_by_hand(ratio, good, bad):
    """clip .2. Sequence forms: A = +1 is clipped to -1.2, A = -1 costs the whole ratio. Per token:
    mean of min(e^g, 1.2) = (1.2 + 1.1052 + .9048 + 1.2) / 4 = 1.1025; of e^g, 1.2521."""
    policy, mask = table(GAPS)
    rho = ratio(policy, torch.zeros_like(policy), mask)
    for advantage, expected in ((1.0, good), (-1.0, bad)):
        found = clipped_surrogate(rho, torch.full_like(rho, advantage), clip=0.2).mean()
        assert found.item() == pytest.approx(expected, abs=1e-4)


def test_clipping_stops_the_gradient_on_the_gaining_side_only():
    """A > 0 above 1.2 and A < 0 below .8 have none; the other two corners have -A rho."""
    for gap, advantage, stopped in (
        (0.5, 1.0, True),
        (-0.5, -1.0, True),
        (0.5, -1.0, False),
        (-0.5, 1.0, False),
    ):
        log_ratio = torch.tensor(gap, dtype=torch.float64, requires_grad=True)
        loss = clipped_surrogate(log_ratio.exp(), torch.tensor(advantage), clip=0.2)
        (gradient,) = torch.autograd.grad(loss, log_ratio)
        expected = 0.0 if stopped else -advantage * math.exp(gap)
        assert gradient.item() == pytest.approx(expected)


def test_at_the_start_the_gradient_is_that_of_reinforce():
    """rho = 1: -A for every token of the product form, -A / T of the other two. An exchanged sign
    would lower good samples."""
    for ratio, expected in ((product_ratio, -3.0), (geometric_ratio, -0.75), (token_ratio, -0.75)):
        policy, mask = table((-1.0, -2.0, -0.5, -4.0))
        start = policy.clone()
        policy.requires_grad_()
        rho = ratio(policy, start, mask)
        (gradient,) = torch.autograd.grad(surrogate(rho, torch.full_like(rho, 3.0)).sum(), policy)
        scale = 4 if ratio is token_ratio else 1  # summed here, a mean in the objective
        torch.testing.assert_close(gradient / scale, torch.full_like(gradient, expected))


def test_estimators_by_hand():
    """log pi - log ref = .5: k1 .5, k2 .125, k3 = e^-.5 - 1 + .5 = .10653."""
    policy, reference = torch.tensor([-1.0]), torch.tensor([-1.5])
    assert k1(policy, reference).item() == pytest.approx(0.5)
    assert k2(policy, reference).item() == pytest.approx(0.125)
    assert k3(policy, reference).item() == pytest.approx(math.exp(-0.5) - 0.5)
    same = torch.tensor([-1.0, -7.0])
    assert all(not estimate(same, same).any() for estimate in (k1, k2, k3))


def test_what_the_estimators_and_their_gradients_are_on_average():
    """Exact expectations over a softmax of four: k1 and k3 are unbiased for KL(pi || ref); as a
    loss k1 has no gradient, k2 that of KL(pi || ref), k3 that of KL(ref || pi)."""
    logits = torch.tensor([0.3, -0.7, 1.1, 0.0], dtype=torch.float64, requires_grad=True)
    ref = torch.log_softmax(torch.tensor([1.0, 0.5, -0.2, 0.1], dtype=torch.float64), 0)
    log_pi = torch.log_softmax(logits, 0)
    pi = log_pi.exp()
    forward = (pi * (log_pi - ref)).sum()
    backward = (ref.exp() * (ref - log_pi)).sum()

    def gradient(value):
        return torch.autograd.grad(value, logits, retain_graph=True)[0]

    fixed = pi.detach()
    for estimate in (k1, k3):
        torch.testing.assert_close((fixed * estimate(log_pi, ref)).sum(), forward)
    assert (fixed * k2(log_pi, ref)).sum() != forward
    wanted = {
        k1: torch.zeros(4, dtype=torch.float64),
        k2: gradient(forward),
        k3: gradient(backward),
    }
    for estimate, expected in wanted.items():
        got = gradient((fixed * estimate(log_pi, ref)).sum())
        torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-9)


def test_divergence_is_a_mean_over_loss_tokens():
    policy, mask = table((0.5, 0.0), (1.0,))
    found = divergence(policy, torch.zeros_like(policy), mask, k2)
    torch.testing.assert_close(found, torch.tensor([0.0625, 0.5], dtype=torch.float64))


def test_entropy_is_that_of_the_policy_on_what_the_start_sampled():
    """All tokens of a vocabulary of two drawn in their shares 3 : 1 by the start (.75, .25). The
    policy (.5, .5) has entropy ln 2; unweighted -log p would give ln 2 too, so also (.9, .1)."""
    start, mask = table([math.log(0.75)] * 3 + [math.log(0.25)])
    for p in (0.5, 0.9):
        policy, _ = table([math.log(p)] * 3 + [math.log(1 - p)])
        expected = -p * math.log(p) - (1 - p) * math.log(1 - p)
        assert token_entropy(policy, start, mask).item() == pytest.approx(expected)
        unweighted = -policy.mean().item()
        assert (p == 0.5) == (abs(unweighted - expected) < 1e-12)


def samples(policy, start, advantages, mask, present=None, reference=None):
    """Inputs of one role."""
    columns = {"advantage": advantages[:, None] * mask}
    if reference is not None:
        columns["reference"] = reference
    present = torch.ones(len(mask), dtype=torch.bool) if present is None else present
    return SequenceInputs(mask, policy, present, None, start, columns)


def inputs_of(*given):
    n = len(given[0].present)
    columns = {"reward": torch.zeros(n), "vote_share": torch.full((n,), torch.nan)}
    return ObjectiveInputs(dict(zip(sample_roles(len(given)), given, strict=True)), columns)


def two_prompts():
    """A prompt with samples of advantage 2 and -2, one with a single sample of advantage 1."""
    first, mask = table((-1.0, -2.0), (-3.0,))
    second, other = table((-0.5, -0.5), (0.0,))
    other[1] = False
    there = torch.tensor([True, False])
    first, second = first.float(), second.float()
    return (
        samples(first, first.clone(), torch.tensor([2.0, 1.0]), mask),
        samples(second, second.clone(), torch.tensor([-2.0, 0.0]), other, there),
    )


def test_the_loss_is_a_mean_over_the_samples_that_are_there():
    """At the start rho = 1, so -(2 - 2) / 2 = 0 and -1; what is absent counts nowhere."""
    objective = policy_gradient("x", 2, ratio=product_ratio, clip=0.2)
    inputs = inputs_of(*two_prompts())
    torch.testing.assert_close(objective.loss(inputs), torch.tensor([0.0, -1.0]))


def test_an_absent_sample_makes_no_gradient_not_even_nan():
    one, two = two_prompts()
    leaves = [s.token_logps.clone().requires_grad_() for s in (one, two)]
    given = [
        samples(leaf, s.start_token_logps, s.token_columns["advantage"][:, 0], s.mask, s.present)
        for leaf, s in zip(leaves, (one, two), strict=True)
    ]
    for ratio in (product_ratio, geometric_ratio, token_ratio):
        objective = policy_gradient("x", 2, ratio=ratio, clip=0.2, kl=(k3, 0.1))
        loss = objective.loss(inputs_of(*given)).sum()
        first, second = torch.autograd.grad(loss, leaves, retain_graph=True)
        per_token = 1.0 if ratio is product_ratio else 0.5
        # Mean over two samples: -2 / 2 for the good one, +2 / 2 for the bad one of prompt one.
        torch.testing.assert_close(first[0], torch.full((2,), -per_token))
        torch.testing.assert_close(second[0], torch.full((2,), per_token))
        torch.testing.assert_close(first[1], torch.tensor([-1.0, 0.0]))
        assert second[1].tolist() == [0, 0]


def test_the_kl_term_reads_the_reference_where_there_is_one_else_the_start():
    """k2 per token: (.5^2 + 0) / 2 / 2 = .0625 against the reference; nothing against the start."""
    policy, mask = table((-1.0, -2.0))
    policy, reference = policy.float(), torch.tensor([[-1.5, -2.0]])
    given = inputs_of(samples(policy, policy.clone(), torch.zeros(1), mask, None, reference))
    for reads, expected in ((True, 0.0625 * 4), (False, 0.0)):
        objective = policy_gradient(
            "x", 1, ratio=product_ratio, clip=0.2, kl=(k2, 4.0), reads_reference=reads
        )
        torch.testing.assert_close(objective.loss(given), torch.tensor([expected]))
        assert ("kl_to_reference" in objective.metrics(given)) == reads


def test_clipped_share_counts_where_the_gradient_stops():
    policy, mask = table(GAPS)
    policy = policy.float()
    start = torch.zeros_like(policy)
    good = samples(policy, start, torch.ones(1), mask)
    bad = samples(policy, start, -torch.ones(1), mask)
    none = samples(policy, start, torch.zeros(1), mask)
    assert clipped_share(good, product_ratio, 0.2).item() == 1
    assert clipped_share(good, token_ratio, 0.2).item() == 0.5
    assert clipped_share(bad, token_ratio, 0.2).item() == 0
    assert clipped_share(good, token_ratio, None).item() == 0
    assert clipped_share(none, product_ratio, 0.2).item() == 0


def test_metrics_have_a_value_per_example():
    objective = policy_gradient("x", 2, ratio=token_ratio, clip=0.2)
    found = objective.metrics(inputs_of(*two_prompts()))
    torch.testing.assert_close(found["completion_tokens"], torch.tensor([2.0, 1.0]))
    assert found["kl_to_start"].tolist() == [0, 0]
    assert found["vote_share"].isnan().all()


def test_a_fall_of_entropy_within_a_stage_is_named():
    warned = policy_gradient("x", 1, ratio=token_ratio, clip=0.2).warnings
    assert warned([{"entropy": e} for e in (2.0, 2.0, 1.5, 1.2, 1.1)]) == ()
    (sentence,) = warned([{"entropy": e} for e in (2.0, 2.0, 1.5, 0.9, 0.8, 0.9)])
    assert sentence.startswith("entropy_collapse: entropy fell from 2.000 to 0.850")
    assert warned([{"entropy": 2.0}]) == ()


def actions_of(policy, start, advantages, actions):
    """One sample whose tokens belong to actions."""
    mask = torch.ones(1, len(actions), dtype=torch.bool)
    columns = {"advantage": torch.tensor([advantages]), "action": torch.tensor([actions])}
    return SequenceInputs(mask, policy, torch.tensor([True]), None, start, columns)


@pytest.mark.parametrize("ratio", [product_ratio, geometric_ratio, token_ratio])
def test_one_action_is_the_whole_completion(ratio):
    policy, _ = table(GAPS)
    policy = policy.float()
    given = actions_of(policy, torch.zeros_like(policy), [-1.0] * 4, [0.0] * 4)
    whole, parts = (
        policy_gradient("x", 1, ratio=ratio, clip=0.2, per_action=per_action)
        for per_action in (False, True)
    )
    torch.testing.assert_close(whole.loss(inputs_of(given)), parts.loss(inputs_of(given)))


def test_each_action_has_a_ratio_of_its_own():
    """Actions of log-ratios (.3, .1) and (-.1, .5), A = 1 and -1: products e^.4 = 1.49 clipped to
    1.2 and e^.4 with A = -1; the mean of -1.2 and 1.4918 is .1459. Geometric: e^.2 clipped, e^.2:
    (-1.2 + 1.2214) / 2 = .0107."""
    policy, _ = table(GAPS)
    policy = policy.float()
    given = actions_of(policy, torch.zeros_like(policy), [1.0, 1.0, -1.0, -1.0], [0.0, 0, 1, 1])
    for ratio, expected in ((product_ratio, 0.1459), (geometric_ratio, 0.0107)):
        objective = policy_gradient("x", 1, ratio=ratio, clip=0.2, per_action=True)
        assert objective.loss(inputs_of(given)).item() == pytest.approx(expected, abs=1e-4)
        assert objective.metrics(inputs_of(given))["clipped"].item() == 0.5


def test_a_wrong_verdict_alone_lowers_exactly_its_span():
    """Actions of 2, 1 and 2 tokens, advantages 0, -1, 0; a token of no action is left alone, and
    the sign of the advantage turns the gradient."""
    start = -torch.ones(1, 6)
    actions = [0.0, 0, 1, 2, 2, -1]
    found = []
    for sign in (-1.0, 1.0):
        leaf = start.clone().requires_grad_()
        given = actions_of(leaf, start, [0.0, 0, sign, 0, 0, 9], actions)
        objective = policy_gradient("x", 1, ratio=product_ratio, clip=0.2, per_action=True)
        (gradient,) = torch.autograd.grad(objective.loss(inputs_of(given)).sum(), leaf)
        found.append(gradient[0])
    torch.testing.assert_close(found[0], torch.tensor([0, 0, 1 / 3, 0, 0, 0]))
    torch.testing.assert_close(found[1], -found[0])


def test_examples_with_fewer_actions_are_divided_by_their_own():
    """Advantages (2, -1) and (3): -(2 - 1) / 2 and -3, beside one another as each alone."""
    start = -torch.ones(2, 2)
    mask = torch.tensor([[True, True], [True, False]])
    columns = {
        "advantage": torch.tensor([[2.0, -1.0], [3.0, 0.0]]),
        "action": torch.tensor([[0.0, 1.0], [0.0, 0.0]]),
    }
    leaf = start.clone().requires_grad_()
    both = SequenceInputs(mask, leaf, torch.tensor([True, True]), None, start, columns)
    for ratio in (product_ratio, geometric_ratio, token_ratio):
        objective = policy_gradient("x", 1, ratio=ratio, clip=0.2, per_action=True)
        loss = objective.loss(inputs_of(both))
        torch.testing.assert_close(loss, torch.tensor([-0.5, -3.0]))
        (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        torch.testing.assert_close(gradient, torch.tensor([[-1.0, 0.5], [-3.0, 0.0]]))
