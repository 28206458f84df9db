"""Steered rewards: values by hand, tasks without a shared completion."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cream.algorithms.objectives import PairLogps, dpo
from cream.algorithms.steering import (
    NO_CHOICES,
    Choices,
    choice_nll,
    conflicting,
    disagreement,
    draw_task,
    gaussian_kl,
    halves,
    hits,
    posterior,
    predicted,
)
from cream.errors import DataError


def choices(*pairs: tuple[int, int]) -> Choices:
    return Choices(np.array([w for w, _ in pairs]), np.array([n for _, n in pairs]))


def shown(some: Choices) -> set[int]:
    return {*some.winners.tolist(), *some.losers.tolist()}


def test_divergence_by_hand_and_in_the_order_of_the_bound() -> None:
    """Of m .8, .1, s .6, .5 from m .5, -.2, s 1, .8.

    First entry: ln(1/.6) + (.36 + .09)/2 - 1/2 = .235826; second: ln(.8/.5) + (.25 + .09)/1.28 -
    1/2 = .235629; sum .471454. Exchanged, as the published code has it: .993060.
    """
    context = torch.tensor([0.5, -0.2]), torch.tensor([1.0, 0.8])
    task = torch.tensor([0.8, 0.1]), torch.tensor([0.6, 0.5])
    assert gaussian_kl(*task, *context).item() == pytest.approx(0.471454, abs=1e-6)
    assert gaussian_kl(*context, *task).item() == pytest.approx(0.993060, abs=1e-6)
    assert gaussian_kl(*task, *task).item() == 0


def test_mean_of_losses_is_not_the_loss_of_the_mean() -> None:
    """Margins 1.2 and -.4: (.263282 + .913015)/2, and -ln((.768525 + .401312)/2)."""
    margins = torch.tensor([[1.2], [-0.4]])
    assert choice_nll(margins).mean().item() == pytest.approx(0.588149, abs=1e-6)
    chance = predicted(margins, torch.tensor([0.5, 0.5]))
    assert -math.log(chance.item()) == pytest.approx(0.536283, abs=1e-6)


def test_a_choice_the_other_way_round_costs_its_margin_more() -> None:
    margins = torch.tensor([-2.0, 0.0, 0.7, 30.0])
    torch.testing.assert_close(choice_nll(-margins), choice_nll(margins) + margins)


def test_two_types_of_users_by_hand() -> None:
    """Of two equally frequent types, 10 % of whose choices are slips.

    After one agreeing choice .9 / (.9 + .1), after three .729 / (.729 + .001), after one of each
    1/2. A choice on which the types differ is then predicted with p .9 + (1 - p) .1.
    """
    agrees, differs = torch.tensor([0.9, 0.1]).log(), torch.tensor([0.1, 0.9]).log()
    seen = {
        1: torch.stack([agrees], 1),
        3: torch.stack([agrees] * 3, 1),
        2: torch.stack([agrees, differs], 1),
        0: torch.empty(2, 0),
    }
    margin = torch.tensor([[0.9], [0.1]]).logit()
    found = {n: posterior(logps) for n, logps in seen.items()}
    chance = {n: predicted(margin, weights).item() for n, weights in found.items()}
    assert found[1][0].item() == pytest.approx(0.9, abs=1e-6)
    assert found[3][0].item() == pytest.approx(0.998630, abs=1e-6)
    assert found[2][0].item() == pytest.approx(0.5, abs=1e-6)
    assert found[0].tolist() == [0.5, 0.5]
    assert chance[1] == pytest.approx(0.82, abs=1e-6)
    assert chance[3] == pytest.approx(0.898904, abs=1e-6)
    assert chance[2] == pytest.approx(0.5, abs=1e-6)


def test_a_prior_counts_as_a_choice_does() -> None:
    """Prior .9, .1 and one choice the other way: .09 against .09."""
    seen = torch.tensor([[0.1], [0.9]]).log()
    found = posterior(seen, torch.tensor([0.9, 0.1]))
    assert found.tolist() == pytest.approx([0.5, 0.5])


def test_the_question_on_which_types_differ_tells_most() -> None:
    """Variance of .9 and .1 is .16, of .9 and .9 nothing; with weights .75, .25: 3/16 * .64."""
    margins = torch.tensor([[0.9, 0.9], [0.1, 0.9]]).logit()
    even = disagreement(margins, torch.tensor([0.5, 0.5]))
    assert even.tolist() == pytest.approx([0.16, 0.0], abs=1e-6)
    uneven = disagreement(margins, torch.tensor([0.75, 0.25]))
    assert uneven[0].item() == pytest.approx(0.12, abs=1e-6)


def test_dpo_on_one_users_pairs_is_the_plain_loss() -> None:
    """Policy -42/-55, reference -45/-52, beta .05: gap 6, x .3; exchanged it costs x more.

    dL/dlog pi(winner) = -beta sigmoid(-x) = -.05 * .425557 = -.021278.
    """
    winner = torch.tensor([-42.0], requires_grad=True)
    policy = PairLogps(winner, torch.tensor([-55.0]))
    reference = PairLogps(torch.tensor([-45.0]), torch.tensor([-52.0]))
    loss = dpo(policy, reference, beta=0.05)
    loss.sum().backward()
    assert loss.item() == pytest.approx(0.554355, abs=1e-6)
    swapped = [PairLogps(pair.rejected, pair.chosen) for pair in (policy, reference)]
    assert dpo(*swapped, beta=0.05).item() == pytest.approx(0.854355, abs=1e-6)
    assert winner.grad is not None
    assert winner.grad.item() == pytest.approx(-0.021278, abs=1e-6)


def test_no_completion_is_in_context_and_targets() -> None:
    """A user who compared every two of seven completions: the case in which positions leak."""
    every = choices(*[(a, b) for a in range(7) for b in range(a + 1, 7)])
    sizes = set()
    for k in range(300):
        task = draw_task(every, np.random.default_rng(k), sizes=(0, 10), targets=5)
        assert 1 <= len(task.targets) <= 5
        assert not shown(task.context) & shown(task.targets)
        sizes.add(len(task.context))
    assert {0, 1, 2} <= sizes


def test_a_task_is_decided_by_its_generator() -> None:
    some = choices(*[(2 * i, 2 * i + 1) for i in range(12)])
    first, again, other = (
        draw_task(some, np.random.default_rng(seed), sizes=(3, 5), targets=4) for seed in (1, 1, 2)
    )
    assert first.context.winners.tolist() == again.context.winners.tolist()
    assert first.targets.winners.tolist() == again.targets.winners.tolist()
    assert first.context.winners.tolist() != other.context.winners.tolist()
    assert 3 <= len(first.context) <= 5
    assert len(first.targets) == 4


def test_a_single_choice_is_a_target_without_context() -> None:
    task = draw_task(choices((4, 2)), np.random.default_rng(0), sizes=(1, 3), targets=5)
    assert len(task.context) == 0
    assert task.targets.winners.tolist() == [4]


def test_halves_share_no_completion() -> None:
    every = choices(*[(a, b) for a in range(10) for b in range(a + 1, 10)])
    first, second = halves(every, np.random.default_rng(3))
    assert len(first) == len(second) == 10
    assert not shown(first) & shown(second)


def test_flipping_twice_is_nothing_and_once_is_the_opposite() -> None:
    some = choices((1, 2), (5, 3))
    assert some.flipped().winners.tolist() == [2, 3]
    assert some.flipped().flipped().winners.tolist() == some.winners.tolist()


def test_equal_rewards_are_half_a_hit() -> None:
    assert hits(np.array([0.3, -0.1, 0.0])).tolist() == [1.0, 0.0, 0.5]


def test_pairs_on_which_users_differ() -> None:
    users = [choices((1, 2), (3, 4)), choices((2, 1), (3, 4)), NO_CHOICES]
    assert conflicting(users) == {(1, 2)}


def test_what_is_no_choice_is_refused() -> None:
    with pytest.raises(DataError, match="preferred to itself"):
        choices((1, 1))
