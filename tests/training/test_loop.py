from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from cream.algorithms.objective import Auxiliary
from cream.errors import Interrupted, TrainingError
from cream.recipe.training import ComputeConfig, OptimiserConfig
from cream.testing import tiny_model
from cream.training.loop import Contribution, Optimisation, optimise

OPTIMISER = OptimiserConfig(learning_rate=0.1, schedule="constant", warmup_ratio=0.0)
COMPUTE = ComputeConfig(save_state_every_minutes=0)


class Offset(nn.Module):
    """One number that belongs to the objective."""

    def __init__(self):
        super().__init__()
        self.value = nn.Parameter(torch.zeros(1))


def task(offset, *, steps=5, loss=None, learning_rate=0.1, max_grad_norm=100.0):
    """Draw a parameter of the objective to 3; the model's own weights have no part in it."""

    def contribute(model, indices, step):
        value = (offset.value - 3).square().sum() if loss is None else loss
        return Contribution(
            value / sum(map(len, step)),
            {"distance": (value.detach(), torch.tensor(sum(map(len, step))))},
            1,
        )

    own = {"offset": Auxiliary(offset, learning_rate, max_grad_norm=max_grad_norm)}
    return Optimisation([[[i]] for i in range(steps)], contribute, 8, "toy", own)


def run(offset, *, learning_rate=0.1, **options):
    return optimise(
        tiny_model(),
        task(offset, learning_rate=learning_rate),
        OPTIMISER,
        COMPUTE,
        dtype=torch.float32,
        **options,
    )


def test_parameters_of_the_objective_are_trained_saved_and_restored(tmp_path):
    whole, broken, again = (Offset() for _ in range(3))
    expected = run(whole)
    assert whole.value.item() == pytest.approx(0.5, abs=0.05)  # Adam moves by lr a step

    def interrupt(step, total, metrics):
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(broken, state_dir=tmp_path, on_step=interrupt)
    saved = load_file(next(tmp_path.glob("step-*")) / "tensors.safetensors")
    assert saved["weight/objective.offset.value"].item() != 0
    assert run(again, state_dir=tmp_path).metrics == expected.metrics
    assert torch.equal(again.value, whole.value)


def test_the_objectives_own_rate_follows_the_schedule_and_no_scale_of_the_models():
    own = Offset()
    metrics = run(own, learning_rate=0.02, learning_rate_scale=0.5).metrics
    assert [m["learning_rate"] for m in metrics] == [0.05] * 5
    assert own.value.item() == pytest.approx(0.1, abs=0.01)  # Adam moves by lr a step


def test_gradients_of_the_objectives_own_modules_are_clipped_apart_from_the_models():
    """d/dv (v - 3)^2 = -6 at 0: reported whole, clipped to 1.5, and no part of the model's norm."""
    own, seen = Offset(), []

    def watch(step, total, metrics):
        seen.append(metrics)

    clipped = task(own, steps=1, max_grad_norm=1.5)
    contribute = clipped.contribute

    def both(model, indices, step):
        part = contribute(model, indices, step)
        loss = part.loss + 2 * model.model.norm.weight[:1].sum()
        return Contribution(loss, part.metrics, 1)

    options = OPTIMISER.model_copy(update={"adam_beta1": 0.0, "adam_epsilon": 1.0})
    model = tiny_model()
    start = model.model.norm.weight[0].item()
    optimise(
        model,
        replace(clipped, contribute=both),
        options,
        COMPUTE,
        dtype=torch.float32,
        on_step=watch,
    )
    assert seen[0]["grad_norm/offset"] == pytest.approx(6.0)
    assert seen[0]["grad_norm"] == pytest.approx(2.0)
    # The first step of Adam without memory is lr g / (|g| + eps): 0.1 * 1.5 / 2.5 and 0.1 / 2.
    assert own.value.item() == pytest.approx(0.06, abs=1e-5)
    assert start - model.model.norm.weight[0].item() == pytest.approx(0.05, abs=1e-5)


def test_an_infinite_metric_stops_training_before_the_update():
    own = Offset()
    bad = task(own, loss=own.value.sum() + torch.inf)
    with pytest.raises(TrainingError, match="training step 1: loss is inf"):
        optimise(tiny_model(), bad, OPTIMISER, COMPUTE, dtype=torch.float32)
    assert own.value.item() == 0


def test_weights_that_the_last_step_breaks_are_refused_with_the_last_finite_step():
    """Adam's first update divides the rate by 1 - beta1 = 0.1: 3e39 is no number of float32."""
    own = Offset()
    broken = task(own, steps=1, learning_rate=3e38)
    with pytest.raises(
        TrainingError,
        match=r"step 1: its loss is finite.*first: objective\.offset\.value\); .* of step 0\.",
    ):
        optimise(tiny_model(), broken, OPTIMISER, COMPUTE, dtype=torch.float32)


def test_no_state_is_saved_of_broken_weights(tmp_path):
    own = Offset()
    own.value.data.fill_(torch.inf)
    loss = (own.value * 0).nan_to_num().sum()
    with pytest.raises(TrainingError, match="training step 1: its loss is finite"):
        optimise(
            tiny_model(),
            task(own, loss=loss),
            OPTIMISER,
            COMPUTE,
            dtype=torch.float32,
            state_dir=tmp_path,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stop", [Interrupted, KeyboardInterrupt])
@pytest.mark.parametrize("place", ["within a step", "between steps"])
def test_who_stops_a_training_loses_no_step(tmp_path, stop, place):
    """Stopped in step 4, or told to stop after step 3: the three steps are kept."""
    whole, broken, again = (Offset() for _ in range(3))
    expected = run(whole)
    rarely = ComputeConfig(save_state_every_minutes=1000)
    work, calls = task(broken), []

    def contribute(model, indices, step):
        calls.append(indices)
        if place == "within a step" and len(calls) == 4:
            raise stop
        return work.contribute(model, indices, step)

    def on_step(step, total, metrics):
        if place == "between steps" and step == 3:
            raise stop

    with pytest.raises(stop):
        optimise(
            tiny_model(),
            replace(work, contribute=contribute),
            OPTIMISER,
            rarely,
            dtype=torch.float32,
            state_dir=tmp_path,
            on_step=on_step,
        )
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000003"]
    assert run(again, state_dir=tmp_path).metrics == expected.metrics
    assert torch.equal(again.value, whole.value)


def test_one_example_that_memory_does_not_hold_is_one_sentence():
    own = Offset()

    def contribute(model, indices, step):
        torch.empty(1 << 60)

    bad = replace(task(own), contribute=contribute)
    with pytest.raises(TrainingError, match="step 1: memory does not hold a single example"):
        optimise(tiny_model(), bad, OPTIMISER, COMPUTE, dtype=torch.float32)
