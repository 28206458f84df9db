"""Losses, gradient norms and metrics against values recorded from TRL 1.16's own DPOTrainer
(`scripts/record_trl_golden.py`), which starts from the same token ids and the same tiny models."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from training_items import pair_batch

from cream.recipe.objectives import Dpo, LengthNormalisedIpo, RobustDpo
from cream.recipe.training import ComputeConfig, PreferenceOptimiserConfig, TrainingConfig
from cream.testing import tiny_model
from cream.training.examples import pair_example
from cream.training.forward import by_hidden
from cream.training.train import train
from cream.types import TokenSequence

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "trl_losses.json").read_text())
BETA = GOLDEN["beta"]
OBJECTIVES = {
    "dpo": Dpo(beta=BETA),
    "robust_dpo": RobustDpo(beta=BETA, label_smoothing=GOLDEN["label_smoothing"]),
    "length_normalised_ipo": LengthNormalisedIpo(beta=BETA),
}


@pytest.mark.parametrize("layout", ["shared", "separate"])
@pytest.mark.parametrize(
    "case", GOLDEN["cases"], ids=lambda c: f"{c['objective']}-{len(c['prompt'])}"
)
def test_first_step_equals_trl(case, layout):
    chosen, rejected = (TokenSequence(tuple(case[side])) for side in ("chosen", "rejected"))
    pair = pair_example("pair", tuple(case["prompt"]), chosen, rejected)
    reference = tiny_model(seed=GOLDEN["reference_seed"])
    batch = pair_batch([pair], shared=False)
    with torch.no_grad():
        inputs = batch.inputs(by_hidden(reference, batch.tokens).token_logps)
    chosen, rejected = (
        replace(side, reference_logps=inputs[role].logps.item())
        for role, side in pair.sequences.items()
    )
    pair = pair_example("pair", tuple(case["prompt"]), chosen, rejected)
    config = TrainingConfig(
        optimiser=PreferenceOptimiserConfig(learning_rate=1e-6, batch_size=1),
        compute=ComputeConfig(precision="float32", pair_layout=layout),
    )
    model = tiny_model(seed=GOLDEN["policy_seed"])
    objective = OBJECTIVES[case["objective"]].build()
    (step,) = train(model, [pair], objective, config, seed=0).metrics
    assert step["loss"] == pytest.approx(case["loss"], rel=1e-5)
    assert step["grad_norm"] == pytest.approx(case["grad_norm"], rel=1e-4)
    for name, value in case["metrics"].items():
        assert step[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
