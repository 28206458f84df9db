"""What of a gradient is more than rounding, by hand."""

import math

import pytest
import torch

from cream.algorithms.objective import ObjectiveInputs, SequenceInputs
from cream.algorithms.preference import supervised
from cream.algorithms.resolution import Resolution, resolution, token_error
from cream.recipe.objectives import Cream, Dpo

ERROR = 0.01


def pair(gap, tokens=(4, 9), c=0.5):
    """One pair whose policy gap exceeds the reference gap by `gap` nats."""

    def side(count, total):
        mask = torch.ones(1, count, dtype=torch.bool)
        logps = torch.full((1, count), total / count)
        return SequenceInputs(mask, logps, torch.ones(1, dtype=torch.bool), torch.tensor([-6.0]))

    sides = {"chosen": side(tokens[0], -6.0 + gap), "rejected": side(tokens[1], -6.0)}
    return ObjectiveInputs(sides, {"consistency": torch.tensor([c])})


def judge(objective, inputs):
    return resolution(objective.build().loss, inputs, error=ERROR)


def test_the_two_sides_of_the_test_are_those_of_the_formula():
    """beta 0.1, gap 0.4: x = 0.04. dl/ds = +-beta (sigma - C) on 4 + 9 tokens; its rounding is
    beta^2 sigma' error sqrt(4 + 9) in all, on each token of both sides."""
    sigma = 1 / (1 + math.exp(-0.04))
    found = judge(Cream(), pair(0.4))

    assert found.gradient == pytest.approx(13 * (0.1 * (sigma - 0.5)) ** 2, rel=1e-4)
    slope = 0.01 * sigma * (1 - sigma) * ERROR
    assert found.rounding == pytest.approx(13 * slope**2 * 13, rel=1e-2)


@pytest.mark.parametrize(("gap", "rounding"), [(0.0, True), (0.03, True), (0.04, False)])
def test_at_a_half_the_border_is_the_rounding_of_the_gap(gap, rounding):
    """|x| / 4 against beta error sqrt(13) / 4: gaps below 0.01 * 3.606 nats are rounding."""
    assert judge(Cream(), pair(gap)).is_rounding is rounding
    assert judge(Cream(), pair(-gap)).is_rounding is rounding


def test_at_the_fixed_point_of_another_c_it_is_the_same():
    at = math.log(0.7 / 0.3) / 0.1

    assert judge(Cream(), pair(at + 0.03, c=0.7)).is_rounding
    assert not judge(Cream(), pair(at + 0.04, c=0.7)).is_rounding
    assert not judge(Cream(), pair(0.0, c=0.7)).is_rounding


@pytest.mark.parametrize("gap", [0.0, 50.0])
def test_a_saturated_loss_is_small_but_no_rounding(gap):
    assert not judge(Dpo(), pair(gap)).is_rounding


def test_a_likelihood_is_linear_and_never_rounding():
    completion = pair(0.0).sequences["chosen"]
    found = resolution(supervised().loss, ObjectiveInputs({"completion": completion}), error=ERROR)

    assert (found.gradient, found.rounding) == (4.0, 0.0)
    assert not found.is_rounding


def test_a_step_is_judged_as_a_whole():
    rounding, signal = Resolution(1.0, 2.0), Resolution(3.0, 0.5)

    assert not (rounding + signal).is_rounding
    assert (rounding + rounding).is_rounding
    assert Resolution().is_rounding


def test_errors_are_those_of_the_dtype():
    assert token_error(torch.bfloat16) == 2**-4
    assert token_error(torch.float32) == 2**-18
