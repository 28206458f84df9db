import math
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from cream.algorithms.objective import ObjectiveInputs, SequenceInputs
from cream.recipe.objectives import ObjectiveConfig

PARSE = TypeAdapter(ObjectiveConfig)
REQUIRED = {
    "conservative_dpo": {"label_smoothing": 0.1},
    "robust_dpo": {"label_smoothing": 0.1},
    "length_normalised_dpo": {"beta": 2.0},
    "srlm_kl": {"kl_weight": 0.5},
}
NAMES = [
    name
    for name in (c.model_fields["name"].default for c in get_args(get_args(ObjectiveConfig)[0]))
    # No preferences: tests/algorithms/test_scir.py and test_policy_gradient.py have theirs.
    if name not in ("scir", "policy_gradient")
]


def sequences(values, lengths, reference, start=0.0):
    mask = torch.arange(values.shape[1]) < torch.tensor(lengths)[:, None]
    values = torch.where(mask, values, 0)
    before = torch.where(mask, values + start, 0)
    present = torch.ones(2, dtype=torch.bool)
    return SequenceInputs(mask, values, present, torch.tensor(reference), before)


def inputs(*, consistency=(0.9, 0.6)):
    """Chosen sums -3 and -4, rejected -6 and -2; reference chosen -4, -4, rejected -6, 0; the
    policy at the start gave chosen tokens ln 2 nats less and rejected ones the same."""
    chosen = torch.tensor([[-1.0, -2.0, 0.0], [-1.0, -1.0, -2.0]])
    rejected = torch.tensor([[-2.0, -4.0], [-2.0, 0.0]])
    return ObjectiveInputs(
        {
            "chosen": sequences(chosen, [2, 3], [-4.0, -4.0], start=-math.log(2)),
            "rejected": sequences(rejected, [2, 1], [-6.0, 0.0]),
        },
        {"consistency": torch.tensor(consistency)},
    )


@pytest.mark.parametrize("name", NAMES)
def test_every_objective_can_be_built_and_gives_one_finite_loss_per_pair(name):
    objective = PARSE.validate_python({"name": name, **REQUIRED.get(name, {})}).build()
    loss = objective.loss(inputs())
    assert loss.isfinite().all()
    assert len(loss) == 2
    assert loss[0] != loss[1]


def loss_of(**config):
    return PARSE.validate_python(config).build().loss(inputs())


def test_margins_reach_the_loss():
    """x = 0.5 (3 - 2) = 0.5 and 0.5 (-2 - -4) = 1: ln(1 + e^-x) = 0.474077 and 0.313262; CREAM
    adds (1 - C) x: 0.05 and 0.4."""
    dpo = loss_of(name="dpo", beta=0.5)
    torch.testing.assert_close(dpo, torch.tensor([0.474077, 0.313262]), atol=1e-6, rtol=0)
    cream = loss_of(name="cream", beta=0.5)
    torch.testing.assert_close(cream - dpo, torch.tensor([0.05, 0.4]), atol=1e-6, rtol=0)


def test_nll_is_per_token_and_weighted_as_named():
    """Chosen NLL per token: 3/2 and 4/3; 2C - 1 = 0.8 and 0.2."""
    plain = loss_of(name="cream")
    constant = loss_of(name="cream", nll={"kind": "constant", "weight": 2.0})
    torch.testing.assert_close(constant - plain, torch.tensor([3.0, 8 / 3]))
    softened = loss_of(name="cream", nll={"kind": "2C-1", "weight": 2.0})
    torch.testing.assert_close(softened - plain, torch.tensor([0.8 * 3, 0.2 * 8 / 3]))


def test_the_c_of_a_fixed_smoothing_softens_its_likelihood_term():
    """Label smoothing 0.3 is C = 0.7 whatever C the pairs carry: weight 2 * (2 * 0.7 - 1) = 0.8."""
    given = {"name": "conservative_dpo", "label_smoothing": 0.3}
    softened = loss_of(**given, nll={"kind": "2C-1", "weight": 2.0})
    torch.testing.assert_close(
        softened - loss_of(**given), torch.tensor([0.8 * 3 / 2, 0.8 * 4 / 3])
    )


def test_consistency_below_half_gets_no_weight_rather_than_a_negative_one():
    config = PARSE.validate_python({"name": "weighted_dpo", "nll": {"kind": "2C-1", "weight": 1.0}})
    loss = config.build().loss(inputs(consistency=(0.3, 0.5)))
    assert loss.tolist() == [0.0, 0.0]


def test_srlm_kl_adds_the_mean_k3_over_both_sides():
    """Chosen log pi - log start = ln 2 on every token: k3 = 1/2 - 1 + ln 2 = 0.193147; the
    rejected side is at the start: 0. Weight 0.5, mean of two sides: 0.5 * 0.193147 / 2."""
    plain = loss_of(name="dpo")
    with_kl = loss_of(name="srlm_kl", kl_weight=0.5)
    expected = torch.full((2,), 0.5 * (math.log(2) - 0.5) / 2)
    torch.testing.assert_close(with_kl - plain, expected, atol=1e-6, rtol=0)


def test_an_option_that_would_be_ignored_cannot_be_written():
    with pytest.raises(ValidationError, match="label_smoothing"):
        PARSE.validate_python({"name": "ipo", "label_smoothing": 0.1})
    with pytest.raises(ValidationError, match="set_level_action"):
        PARSE.validate_python({"name": "dpo", "set_level_action": "skip"})


def test_likelihood_terms_are_off_unless_named():
    for name in NAMES:
        config: Any = PARSE.validate_python({"name": name, **REQUIRED.get(name, {})})
        assert config.nll is None
