"""A pair's weight is a factor on its whole loss, likelihood term included."""

import math
from dataclasses import replace

import pytest
from test_preference import config, logp, weights, with_reference
from training_items import make_pairs

from cream.recipe.objectives import ConstantNll, Dpo
from cream.testing import tiny_model
from cream.training.train import train

OBJECTIVE = Dpo(nll=ConstantNll(weight=2.0))


def test_the_first_loss_is_the_weighted_mean_over_the_pairs_of_the_step():
    """The reference is the policy, so a pair's loss is w (ln 2 + 2 nll); the sum is over 4 pairs,
    not over the weights."""
    model = tiny_model()
    pairs = with_reference(model, make_pairs(4))
    factors = [1.0, 0.5, 0.25, 0.0]
    expected = sum(
        w * (math.log(2) - 2 * logp(model, p, "chosen") / len(p.sequences["chosen"].token_ids))
        for w, p in zip(factors, pairs, strict=True)
    )
    weighted = [replace(p, weight=w) for w, p in zip(factors, pairs, strict=True)]

    summary = train(model, weighted, OBJECTIVE.build(), config(), seed=0)

    assert summary.metrics[0]["loss"] == pytest.approx(expected / 4, rel=1e-5)


def test_a_pair_of_weight_zero_does_not_move_the_model():
    """Adam's first step is blind to the scale of a gradient, so a small weight would move it."""
    model = tiny_model()
    before = weights(model)
    ignored = [replace(p, weight=0.0) for p in make_pairs(4)]
    still = config()
    still = still.model_copy(
        update={"optimiser": still.optimiser.model_copy(update={"weight_decay": 0.0})}
    )

    train(model, ignored, OBJECTIVE.build(), still, seed=0)

    assert all((before[name] == p).all() for name, p in model.named_parameters())
