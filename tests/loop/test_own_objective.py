"""A loss of the user's, written from the public names alone: with a head that reads hidden states,
columns of the score matrix and metrics of its own."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import AutoModelForCausalLM

import cream
from cream import (
    Auxiliary,
    CreamError,
    Needs,
    Objective,
    ObjectiveInputs,
    Recipe,
    objectives,
    preference,
)
from cream.report.export import export_pairs

RecipeMaker = Callable[..., Recipe]
SIDES = ("chosen", "rejected")


def probed_dpo(*, fingerprint: str = "probed v1") -> Objective:
    """DPO, and a probe on the last hidden state that tells chosen from rejected completions."""

    def probe_loss(inputs: ObjectiveInputs) -> torch.Tensor:
        chosen, rejected = (inputs.auxiliary["probe"](inputs[s].hidden)[:, 0] for s in SIDES)
        return nn.functional.softplus(rejected - chosen)

    def loss(inputs: ObjectiveInputs) -> torch.Tensor:
        pairs = preference.pair_inputs(inputs)
        return objectives.dpo(pairs.policy, pairs.reference, beta=0.1) + probe_loss(inputs)

    def metrics(inputs: ObjectiveInputs) -> Mapping[str, torch.Tensor]:
        drift = inputs["chosen"].logps.detach() - inputs.columns["chosen_logps_M0"]
        return {"probe/loss": probe_loss(inputs).detach(), "drift/chosen": drift}

    def own(hidden_size: int) -> Mapping[str, Auxiliary]:
        head = nn.Linear(hidden_size, 1)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        return {"probe": Auxiliary(head, learning_rate=0.02, max_grad_norm=10.0)}

    return Objective(
        name="probed_dpo",
        fingerprint=fingerprint,
        needs=Needs(
            scored=SIDES,
            references=SIDES,
            columns=("consistency", "chosen_logps_M0"),
            hidden={"chosen": "last", "rejected": "last"},
        ),
        loss=loss,
        metrics=metrics,
        auxiliary=own,
    )


class StopAt:
    """Progress that leaves the training of pairs after some steps, as Ctrl-C does."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.stage = ""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage = stage

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None: ...

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        if "probe/loss" in (live or {}) and done == self.step:
            raise KeyboardInterrupt

    def finish(self, result: str = "") -> None: ...

    def note(self, text: str) -> None: ...


@pytest.fixture
def recipe(tiny_recipe: RecipeMaker, tmp_path: Path) -> Callable[[str], Recipe]:
    def make(name: str) -> Recipe:
        return tiny_recipe(
            tmp_path / name,
            "iterations=1",
            "training.epochs=8",
            "training.optimiser.batch_size=2",
            "training.compute.save_state_every_minutes=0",
        )

    return make


def metrics_of(run: Path) -> list[dict[str, float]]:
    lines = (run / "iteration-1" / "train" / "metrics.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in lines.splitlines()]


def test_a_loss_with_a_head_trains_reports_resumes_and_leaves_the_model_clean(
    recipe: Callable[[str], Recipe], tiny_inputs: Path, tmp_path: Path
) -> None:
    whole, broken = recipe("whole"), recipe("broken")
    cream.run(whole, base_dir=tiny_inputs, objective=probed_dpo())
    with pytest.raises(KeyboardInterrupt):
        cream.run(broken, base_dir=tiny_inputs, objective=probed_dpo(), progress=StopAt(3))
    saved = next((tmp_path / "broken" / "iteration-1" / "train" / "state").glob("step-*"))
    assert "weight/objective.probe.weight" in load_file(saved / "tensors.safetensors")
    cream.run(broken, base_dir=tiny_inputs, objective=probed_dpo())

    steps = metrics_of(tmp_path / "whole")
    assert steps[0]["probe/loss"] == pytest.approx(math.log(2), abs=1e-6)  # a head of zeros
    assert sum(s["probe/loss"] for s in steps[-3:]) / 3 < 0.9 * math.log(2)
    assert steps[0]["grad_norm/probe"] > 0
    heads, models = [], []
    for name in ("whole", "broken"):
        heads.append(load_file(tmp_path / name / "iteration-1" / "train" / "objective.safetensors"))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / name / "models" / "M2")
        models.append(dict(model.named_parameters()))
    assert set(heads[0]) == {"probe.weight", "probe.bias"}
    assert heads[0]["probe.weight"].abs().max() > 0
    assert all(torch.equal(heads[0][key], heads[1][key]) for key in heads[0])
    assert all(torch.equal(p, models[1][key]) for key, p in models[0].items())
    assert not any("probe" in key for key in models[0])
    assert metrics_of(tmp_path / "broken") == steps

    with pytest.raises(CreamError, match="'probed_dpo', which was given in Python"):
        export_pairs(tmp_path / "whole", None)
    with pytest.raises(CreamError, match="changed: objective"):
        cream.run(whole, base_dir=tiny_inputs, objective=probed_dpo(fingerprint="probed v2"))
    with pytest.raises(CreamError, match="changed: objective"):
        cream.run(whole, base_dir=tiny_inputs)


def zero(needs: Needs) -> Objective:
    return Objective("zero", "zero v1", needs, lambda inputs: 0 * inputs["chosen"].logps)


def test_what_no_pair_has_is_refused_before_anything_runs(
    recipe: Callable[[str], Recipe], tiny_inputs: Path, tmp_path: Path
) -> None:
    for needs, says in [
        (Needs(("chosen", "greedy")), "reads greedy, and the training examples of this run are"),
        (Needs(SIDES, token_columns={"chosen": ("edit",)}), "reads edit of chosen"),
        (Needs(SIDES, columns=("chosen_judge",)), "reads the column chosen_judge, and the pairs"),
    ]:
        with pytest.raises(CreamError, match=says):
            cream.run(recipe("run"), base_dir=tiny_inputs, objective=zero(needs))
    with pytest.raises(CreamError, match=r"objective .*has no `fingerprint`"):
        cream.run(recipe("run"), base_dir=tiny_inputs, objective=probed_dpo(fingerprint=""))
    assert not (tmp_path / "run" / "recipe.yaml").exists()
