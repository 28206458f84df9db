import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cream.errors import TrainingError
from cream.recipe.training import ComputeConfig, OptimiserConfig
from cream.testing import tiny_model
from cream.training.loop import Contribution, Task, optimise

OPTIMISER = OptimiserConfig(learning_rate=0.1, schedule="constant", warmup_ratio=0.0)
COMPUTE = ComputeConfig(save_state_every_minutes=0)


def task(auxiliary, *, steps=5, loss=None):
    """Draw a parameter of the objective to 3; the model's own weights have no part in it."""

    def contribute(model, indices, step):
        value = (auxiliary - 3).square().sum() if loss is None else loss
        return Contribution(value / sum(map(len, step)), {"distance": value.detach()}, 1)

    return Task([[[i]] for i in range(steps)], contribute, 8, "toy", {"offset": auxiliary})


def run(auxiliary, **options):
    return optimise(
        tiny_model(), task(auxiliary), OPTIMISER, COMPUTE, dtype=torch.float32, **options
    )


def test_parameters_of_the_objective_are_trained_saved_and_restored(tmp_path):
    whole, broken, again = (nn.Parameter(torch.zeros(1)) for _ in range(3))
    expected = run(whole)
    assert whole.item() == pytest.approx(0.5, abs=0.05)  # Adam moves by lr a step

    def interrupt(step, total, metrics):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(broken, state_dir=tmp_path, on_step=interrupt)
    saved = load_file(next(tmp_path.glob("step-*")) / "tensors.safetensors")
    assert saved["weight/objective.offset"].item() != 0
    assert run(again, state_dir=tmp_path).metrics == expected.metrics
    assert torch.equal(again, whole)


def test_a_learning_rate_scale_multiplies_the_rate():
    half = nn.Parameter(torch.zeros(1))
    metrics = run(half, learning_rate_scale=0.5).metrics
    assert [m["learning_rate"] for m in metrics] == [0.05] * 5
    assert half.item() == pytest.approx(0.25, abs=0.03)


def test_an_infinite_metric_stops_training_before_the_update():
    auxiliary = nn.Parameter(torch.zeros(1))
    bad = task(auxiliary, loss=auxiliary.sum() + torch.inf)
    with pytest.raises(TrainingError, match="training step 1: loss is inf"):
        optimise(tiny_model(), bad, OPTIMISER, COMPUTE, dtype=torch.float32)
    assert auxiliary.item() == 0
