"""Losses, gradient norms and metrics against values recorded from TRL 1.16's own DPOTrainer
(`scripts/record_trl_golden.py`), which starts from the same token ids and the same tiny models."""

import json
from pathlib import Path

import pytest
import torch

from cream.recipe.objectives import Dpo, LengthNormalisedIpo, RobustDpo
from cream.recipe.training import ComputeConfig, PreferenceOptimiserConfig, TrainingConfig
from cream.testing import tiny_model
from cream.training.batches import separate_pair_batch
from cream.training.forward import logps_by_hidden
from cream.training.preference import train_pairs
from cream.types import TokenisedPair

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
    pair = TokenisedPair(
        "pair", tuple(case["prompt"]), tuple(case["chosen"]), tuple(case["rejected"]), 0.0, 0.0
    )
    reference = tiny_model(seed=GOLDEN["reference_seed"])
    batch = separate_pair_batch([pair]).tokens
    with torch.no_grad():
        chosen, rejected = batch.table(logps_by_hidden(reference, batch)).sum(-1).tolist()
    pair = TokenisedPair(
        "pair", pair.prompt_ids, pair.chosen_ids, pair.rejected_ids, chosen, rejected
    )
    config = TrainingConfig(
        optimiser=PreferenceOptimiserConfig(learning_rate=1e-6, batch_size=1),
        compute=ComputeConfig(precision="float32", pair_layout=layout),
    )
    model = tiny_model(seed=GOLDEN["policy_seed"])
    (step,) = train_pairs(model, [pair], OBJECTIVES[case["objective"]], config, seed=0).metrics
    assert step["loss"] == pytest.approx(case["loss"], rel=1e-5)
    assert step["grad_norm"] == pytest.approx(case["grad_norm"], rel=1e-4)
    for name, value in case["metrics"].items():
        assert step[name] == pytest.approx(value, rel=1e-5, abs=1e-5), name
