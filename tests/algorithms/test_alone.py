"""Examples without a rejected sequence: only the likelihood of the chosen one trains on them."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cream.algorithms.objective import ObjectiveInputs, SequenceInputs
from cream.recipe.objectives import ChosenNll, ConstantNll, Dpo, LengthNormalisedDpo, SrlmKl

PRESENT = torch.tensor([True, False, True])
"""The second of three examples has no rejected sequence."""


def inputs(chosen: Tensor, rejected: Tensor) -> ObjectiveInputs:
    def side(values: Tensor, present: Tensor) -> SequenceInputs:
        mask = present[:, None].expand(values.shape)
        return SequenceInputs(
            mask,
            torch.where(mask, values, 0),
            present,
            reference_logps=torch.where(present, torch.tensor([-3.0, -2.5, -4.0]), 0),
            start_token_logps=torch.where(mask, values.detach() - 0.25, 0),
        )

    everywhere = torch.ones(3, dtype=torch.bool)
    consistency = {"consistency": torch.tensor([1.0, 1.0, 0.75])}
    sides = {"chosen": side(chosen, everywhere), "rejected": side(rejected, PRESENT)}
    return ObjectiveInputs(sides, consistency)


@pytest.fixture
def logps() -> tuple[Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    chosen, rejected = (-torch.rand(3, 4, generator=draw) for _ in range(2))
    return chosen.requires_grad_(), rejected.requires_grad_()


@pytest.mark.parametrize(
    "section",
    [
        Dpo(nll=ConstantNll(weight=0.5)),
        LengthNormalisedDpo(beta=1.0, nll=ConstantNll(weight=0.5)),
        SrlmKl(kl_weight=0.1, nll=ConstantNll(weight=0.5)),
    ],
    ids=lambda section: section.name,
)
def test_one_alone_has_its_likelihood_term_and_the_others_what_they_had(section, logps):
    chosen, rejected = logps
    objective, given = section.build(), inputs(chosen, rejected)
    losses = objective.loss(given)

    assert losses[1].item() == pytest.approx(0.5 * -chosen[1].mean().item(), rel=1e-6)
    pairs = given.examples(PRESENT)
    torch.testing.assert_close(losses[PRESENT], objective.loss(pairs), rtol=0, atol=0)
    losses.sum().backward()
    assert torch.isfinite(chosen.grad).all()
    torch.testing.assert_close(chosen.grad[1], torch.full((4,), -0.5 / 4))
    assert torch.equal(rejected.grad[1], torch.zeros(4))


def test_metrics_of_a_pair_are_absent_where_there_is_none(logps):
    metrics = Dpo(nll=ConstantNll(weight=1.0)).build().metrics(inputs(*logps))

    assert set(metrics) >= {"rewards/margins", "rewards/accuracies", "logps/chosen"}
    for values in metrics.values():
        assert torch.isnan(values).tolist() == [False, True, False]


def test_the_likelihood_alone_is_the_mean_token_loss_of_the_chosen(logps):
    chosen, rejected = logps
    objective = ChosenNll().build()
    losses = objective.loss(inputs(chosen, rejected))

    torch.testing.assert_close(losses, -chosen.mean(-1))
    assert objective.needs.roles == ("chosen",)
    losses.sum().backward()
    torch.testing.assert_close(chosen.grad, torch.full((3, 4), -0.25))
    assert rejected.grad is None


def test_a_micro_batch_without_a_single_pair_trains_by_likelihood(logps):
    chosen, rejected = logps
    given = inputs(chosen, rejected).examples(~PRESENT)
    losses = Dpo(nll=ConstantNll(weight=2.0)).build().loss(given)

    assert losses.tolist() == pytest.approx([-2.0 * chosen[1].mean().item()], rel=1e-6)
    assert not math.isnan(losses.item())
