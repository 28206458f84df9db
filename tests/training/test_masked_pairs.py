"""DPO on the tokens that an edit touched: what masks do to loss and gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cream.models.loading import load_model
from cream.recipe.objectives import Dpo
from cream.stages.train import on_touched
from cream.testing import tiny_model_folder
from cream.training.examples import BatchLayout, pair_example
from cream.training.forward import by_logits
from cream.types import Example, PairTable, TokenSequence

PROMPT, CHOSEN, REJECTED = (5, 6, 7), (8, 9, 10, 3), (8, 11, 3)
REFERENCE = {"c": (-1.5, -0.25, -3.125, -0.5), "r": (-1.5, -2.75, -0.125)}
EVERY = {"c": (True,) * 4, "r": (True,) * 3}
NONE = {"c": (False,) * 4, "r": (False,) * 3}
DIFFERENT = {"c": (False, True, True, False), "r": (False, True, False)}
"""The first and the last token of both are kept."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model_folder(folder)
    return load_model(folder, dtype=torch.float32, device=torch.device("cpu"))


def whole() -> Example:
    """The pair with sums as the stage of scores keeps them: float32 numbers added in float64."""
    sums = {
        k: float(np.sum(np.array(v, np.float32), dtype=np.float64)) for k, v in REFERENCE.items()
    }
    return pair_example(
        "c>r", PROMPT, TokenSequence(CHOSEN, sums["c"]), TokenSequence(REJECTED, sums["r"])
    )


def masked(touched) -> Example:
    one = np.ones(1)
    prompt, chosen, rejected = (np.array([key], dtype=object) for key in ("p", "c", "r"))
    pairs = PairTable(prompt, chosen, rejected, one, one, one, one)
    (example,) = on_touched([whole()], pairs, touched, REFERENCE)
    return example


def loss_and_gradient(model, example: Example):
    objective = Dpo().build()
    batch = BatchLayout(objective.needs, shared=True).batch([example])
    model.zero_grad()
    loss = objective.loss(batch.inputs(by_logits(model, batch.tokens).token_logps))
    loss.sum().backward()
    return loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_full_masks_are_dpo_bit_for_bit(model):
    plain, masks = loss_and_gradient(model, whole()), loss_and_gradient(model, masked(EVERY))
    assert torch.equal(plain[0], masks[0])
    assert all(map(torch.equal, plain[1], masks[1]))


def test_empty_masks_are_ln_2_without_a_gradient(model):
    loss, gradient = loss_and_gradient(model, masked(NONE))
    assert loss.item() == pytest.approx(math.log(2), abs=1e-7)
    assert all(float(g.abs().max()) == 0 for g in gradient)


def test_the_loss_reads_touched_tokens_of_policy_and_reference_alone(model):
    """-log sigmoid(.1 (policy gap - reference gap)), both over the touched tokens."""
    example = masked(DIFFERENT)
    objective = Dpo().build()
    plain = BatchLayout(objective.needs, shared=True).batch([whole()])
    table = plain.inputs(by_logits(model, plain.tokens).token_logps)
    policy = table["chosen"].token_logps[0, 1:3].sum() - table["rejected"].token_logps[0, 1]
    reference = (-0.25 - 3.125) - (-2.75)
    loss, _ = loss_and_gradient(model, example)
    margin = 0.1 * (policy.item() - reference)
    assert loss.item() == pytest.approx(math.log1p(math.exp(-margin)), abs=1e-6)
    assert example.sequences["chosen"].reference_logps == -0.25 - 3.125
