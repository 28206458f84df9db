"""The preference degree term: worked values, what its heads and the trunk are told, catchers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor

from cream.algorithms.degree import (
    degree_cross_entropy,
    preference_degree,
    role_of,
    stuck,
    zero_heads,
)
from cream.algorithms.objective import Objective, ObjectiveInputs, SequenceInputs
from cream.recipe.objectives import Dpo

SIDES = ("chosen", "rejected")


def term(**given: object) -> Objective:
    options = {
        "gamma": 0.1,
        "degrees": 4,
        "sides": SIDES,
        "shared_head": False,
        "stop_gradient": False,
        "learning_rate": 1e-3,
        "weight_decay": 0.0,
    }
    return preference_degree("test", **{**options, **given})  # type: ignore[arg-type]


def side(
    logps: Tensor | None = None,
    reference: Tensor | None = None,
    hidden: Tensor | None = None,
    present: Tensor | None = None,
) -> SequenceInputs:
    count = len(logps if logps is not None else hidden)  # type: ignore[arg-type]
    scored = logps is not None
    return SequenceInputs(
        torch.full((count, 1), scored),
        logps[:, None] if scored else torch.zeros(count, 1),  # type: ignore[index]
        torch.ones(count, dtype=torch.bool) if present is None else present,
        reference,
        hidden=hidden,
    )


def inputs(
    states: Mapping[tuple[str, int], Tensor], heads: torch.nn.Module, x: float = 4.0
) -> ObjectiveInputs:
    """Pairs with a gap of x nats to the reference, and the states of some derived answers."""
    count = next(iter(states.values())).shape[0]
    absent = torch.zeros(count, dtype=torch.bool)
    empty = torch.zeros(count, next(iter(states.values())).shape[1])
    sequences = {
        role_of(s, k): side(
            hidden=states.get((s, k), empty), present=None if (s, k) in states else absent
        )
        for s in SIDES
        for k in range(4)
    }
    zero = torch.zeros(count)
    sequences |= {"chosen": side(zero + x, zero), "rejected": side(zero, zero)}
    return ObjectiveInputs(sequences, {"consistency": torch.ones(count)}, {"degree": heads})


def heads_of(weight: list[list[float]]) -> torch.nn.Module:
    heads = zero_heads(len(weight[0]), len(weight), SIDES, shared=False)
    with torch.no_grad():
        for head in heads.values():  # pyright: ignore
            head.weight.copy_(torch.tensor(weight))
    return heads


def test_cross_entropy_and_its_gradients_are_those_of_the_worked_example():
    """W = (1, 0), (0, 1), (-0.5, 0), (-1, 0) on h = (1, 0.5): logits (1, 0.5, -0.5, -1)."""
    weight = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-0.5, 0.0], [-1.0, 0.0]], requires_grad=True)
    h = torch.tensor([[1.0, 0.5]], requires_grad=True)
    logits = h @ weight.T
    p = torch.tensor([0.508907, 0.308668, 0.113552, 0.068873])

    assert torch.allclose(logits.softmax(-1)[0], p, atol=1e-6)
    assert degree_cross_entropy(logits, 3).item() == pytest.approx(2.675490, abs=1e-6)
    loss = degree_cross_entropy(logits, 0)
    assert loss.item() == pytest.approx(0.675490, abs=1e-6)
    loss.sum().backward()
    assert h.grad is not None
    assert weight.grad is not None
    assert torch.allclose(h.grad, torch.tensor([[-0.616742, 0.308668]]), atol=1e-6)
    outer = (p - torch.eye(4)[0])[:, None] * torch.tensor([[1.0, 0.5]])
    assert torch.allclose(weight.grad, outer, atol=1e-6)


def test_the_sum_with_dpo_is_the_worked_example():
    """x = 0.1 * 4 = 0.4: DPO 0.513015; gamma 0.1 times CE of k = 0, and of k = 0 and 3."""
    weight = [[1.0, 0.0], [0.0, 1.0], [-0.5, 0.0], [-1.0, 0.0]]
    h, heads = torch.tensor([[1.0, 0.5]]), heads_of(weight)
    both = Dpo().build() + term()

    one = both.loss(inputs({("chosen", 0): h}, heads))
    two = both.loss(inputs({("chosen", 0): h, ("rejected", 3): h}, heads))
    assert one.item() == pytest.approx(0.580564, abs=1e-6)
    assert two.item() == pytest.approx(0.680564, abs=1e-6)


def test_heads_of_zeros_are_at_chance_and_send_no_gradient_into_the_states():
    h = torch.randn(3, 5, requires_grad=True)
    given = inputs({("chosen", 1): h}, zero_heads(5, 4, SIDES, shared=False))
    loss = term(gamma=1.0).loss(given)
    loss.sum().backward()

    assert torch.allclose(loss, torch.full((3,), math.log(4)))
    assert h.grad is not None
    assert h.grad.abs().max() == 0
    assert given.auxiliary["degree"]["chosen"].weight.grad.abs().max() > 0  # type: ignore[index]


def test_a_probe_teaches_its_head_what_the_joint_term_does_and_the_states_nothing():
    weight = torch.randn(4, 5).tolist()
    grads = []
    for stop in (False, True):
        h, heads = torch.ones(2, 5, requires_grad=True), heads_of(weight)
        total = term(stop_gradient=stop).loss(inputs({("rejected", 2): h}, heads)).sum()
        total.backward()
        grads.append((h.grad, heads["rejected"].weight.grad))  # type: ignore[index]
    (joint, joint_head), (probe, probe_head) = grads

    assert joint is not None
    assert joint.abs().max() > 0
    assert probe is None
    assert torch.equal(joint_head, probe_head)


def test_every_example_weighs_the_same_however_many_answers_it_has_and_none_gives_nothing():
    """Example 0 has one answer, example 1 two, example 2 none; all cost 1 nat on average."""
    heads = zero_heads(1, 4, SIDES, shared=False)
    with torch.no_grad():
        heads["chosen"].bias.copy_(torch.tensor([0.0, 2.0, 0.0, 0.0]))  # type: ignore[index,union-attr]
    states = torch.zeros(3, 1)
    given = inputs({("chosen", 0): states, ("chosen", 1): states}, heads)
    known = {0: torch.tensor([True, True, False]), 1: torch.tensor([False, True, False])}
    sequences = {
        **given.sequences,
        **{role_of("chosen", k): side(hidden=states, present=known[k]) for k in (0, 1)},
    }
    given = ObjectiveInputs(sequences, given.columns, given.auxiliary)
    total = math.log(3 + math.exp(2))

    loss = term(gamma=1.0).loss(given)
    assert loss.tolist() == pytest.approx([total, total - 1, 0.0], abs=1e-6)
    told = term().metrics(given)
    assert told["degree/accuracy"][:2].tolist() == [0.0, 0.5]
    assert told["degree/accuracy"][2].isnan()
    assert told["degree/loss"][2].isnan()


def test_swapped_labels_teach_the_opposite():
    """Trained on states that are their degree, heads say more the more was removed; with reversed
    labels they say less: a wrong label shows in the sign."""
    states = {k: torch.full((1, 1), k - 1.5) for k in range(4)}
    slopes = []
    for reverse in (False, True):
        heads = zero_heads(1, 4, SIDES, shared=False)
        optimiser = torch.optim.Adam(heads.parameters(), 0.1)
        given = {("chosen", 3 - k if reverse else k): h for k, h in states.items()}
        for _ in range(100):
            optimiser.zero_grad()
            term().loss(inputs(given, heads)).sum().backward()
            optimiser.step()
        expected = [
            (heads["chosen"](h).softmax(-1) @ torch.arange(4.0)).item()  # type: ignore[index]
            for h in states.values()
        ]
        slopes.append(expected[3] - expected[0])
    assert slopes[0] > 1
    assert slopes[1] < -1


def test_one_head_for_both_sides_reads_both():
    heads = zero_heads(2, 4, SIDES, shared=True)
    h = torch.randn(1, 2)
    given = inputs({("chosen", 0): h, ("rejected", 0): h}, heads)
    term(shared_head=True).loss(given).sum().backward()
    assert [name for name, _ in heads.named_parameters()] == ["all.weight", "all.bias"]


def test_heads_that_stay_at_chance_are_warned_about():
    flat = [{"degree/loss": math.log(4)}] * 10
    (said,) = stuck(flat, degrees=4)
    assert "head_learning_rate" in said
    assert not stuck([*flat[1:], {"degree/loss": 1.2}], degrees=4)
    assert not stuck(flat[1:], degrees=4)
