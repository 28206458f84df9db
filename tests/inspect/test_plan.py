"""A plan adds up: work from counts and lengths, seconds from rates, nothing for what is done."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from cream.engines.sampler import TorchSampler
from cream.engines.scorer import TorchScorer
from cream.inspect.plan import Length, Plan, assumed_length, make_plan
from cream.inspect.rates import Rates, StepCost, measure_rates, step_cost
from cream.protocols import Capability, Engine, SamplingParams
from cream.recipe import Recipe
from cream.recipe.objectives import Cream
from cream.records import StageSpec
from cream.runs.plan import TokenCounts
from cream.testing import tiny_model

STAGES = [
    StageSpec(
        name="seed-model/evaluate",
        label="evaluate M0",
        kind="evaluate",
        source="test",
        prompts=10,
        completions=30,
        model="M0",
        max_completion_tokens=100,
    ),
    StageSpec(
        name="sft/train",
        label="fine-tune",
        kind="fine_tune",
        source="seed/policy",
        prompts=16,
        completions=16,
        model="M0",
        epochs=8,
    ),
    StageSpec(
        name="iteration-1/sample",
        label="sample",
        kind="sample",
        source="iteration-1",
        prompts=8,
        completions=32,
        model="M1",
        max_completion_tokens=4,
    ),
    StageSpec(
        name="iteration-1/score/M1",
        label="score",
        kind="score",
        source="iteration-1",
        prompts=8,
        completions=32,
        model="M1",
    ),
    StageSpec(
        name="iteration-1/score/judge",
        label="judge",
        kind="text_score",
        source="iteration-1",
        prompts=8,
        completions=32,
    ),
    StageSpec(
        name="iteration-1/pair",
        label="pair",
        kind="pair",
        source="iteration-1",
        prompts=8,
        completions=32,
    ),
    StageSpec(
        name="iteration-1/train",
        label="train",
        kind="train",
        source="iteration-1",
        prompts=8,
        completions=16,
        model="M1",
        epochs=2,
    ),
]
COUNTS = {
    "test": TokenCounts(5.0, None),
    "seed/policy": TokenCounts(6.0, 2.0),
    "iteration-1": TokenCounts(7.0, None),
}
RATES = Rates(
    sampled_per_second=10.0,
    scored_per_second=20.0,
    fine_tuning=StepCost(fixed=0.5, per_token=0.01),
    training=StepCost(fixed=0.25, per_token=0.1),
    seed_model_tokens=50.0,
    load_seconds=1.0,
    start_seconds=1.0,
    peak_bytes=1000,
    seconds=3.0,
)


def plan(recipe: Recipe, root: Path, rates: Rates | None) -> Plan:
    length = Length(3.0, "seed completions")
    return make_plan(recipe, root, STAGES, COUNTS, length, parameters=10, disk_bytes=5, rates=rates)


def test_tokens_and_seconds_by_hand(tiny_recipe: Callable[..., Recipe], tmp_path: Path):
    """M0 answers with 50 tokens: 30 * 50 drawn at 10/s. Fine-tuning: 8 epochs of 16 * (6 + 2)
    tokens in 8 * 2 steps. Scoring: 8 * 7 + 32 * 3. Training: 2 epochs of 8 pairs of 7 + 2 * 3
    tokens, 4 to a step. Loading takes 1 s each time."""
    told = plan(tiny_recipe(tmp_path / "run"), tmp_path / "run", RATES)
    rows = {row.stage: row for row in told.stages}

    assert {name: row.tokens for name, row in rows.items()} == {
        "seed-model/evaluate": 1500,
        "sft/train": 1024,
        "iteration-1/sample": 96,
        "iteration-1/score/M1": 152,
        "iteration-1/score/judge": None,
        "iteration-1/pair": None,
        "iteration-1/train": 208,
    }
    seconds = {name: row.seconds for name, row in rows.items() if row.seconds is not None}
    assert seconds == pytest.approx(
        {
            "seed-model/evaluate": 1 + 150,
            "sft/train": 1 + 16 * 0.5 + 10.24,
            "iteration-1/sample": 1 + 9.6,
            "iteration-1/score/M1": 1 + 7.6,
            "iteration-1/train": 1 + 4 * 0.25 + 20.8,
        }
    )
    assert told.remaining_seconds == pytest.approx(sum(seconds.values()))
    assert "not timed" in str(rows["iteration-1/score/judge"].reason)
    assert told.memory.as_json() == {"training_bytes": 160, "measured_bytes": 1000}
    assert not (tmp_path / "run").exists()


def test_without_timing_there_are_counts_and_no_seconds(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
):
    told = plan(tiny_recipe(tmp_path / "run"), tmp_path / "run", None)

    assert [row.seconds for row in told.stages] == [None] * 7
    assert all(row.reason for row in told.stages)
    assert told.remaining_seconds is None
    assert told.stages[0].tokens == 30 * 100  # M0 may run into the limit


def test_what_is_done_costs_nothing_and_a_half_made_stage_half(
    tiny_recipe: Callable[..., Recipe], finished_run: Path, tmp_path: Path
):
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    sample = root / "iteration-1" / "sample"
    (sample / "stage.json").rename(sample / "begun.json")
    (sample / "part-00001.parquet").unlink()
    shutil.rmtree(root / "iteration-1" / "train")
    rows = {row.stage: row for row in plan(tiny_recipe(root), root, RATES).stages}

    tuned = json.loads((root / "sft/train/stage.json").read_text(encoding="utf-8"))
    assert rows["sft/train"].state == "finished"
    assert rows["sft/train"].seconds == tuned["seconds"]
    assert rows["sft/train"].remaining_seconds == 0.0
    assert rows["iteration-1/sample"].state == "begun"
    assert rows["iteration-1/sample"].remaining_seconds == pytest.approx(10.6 / 2)
    assert rows["iteration-1/train"].state == "missing"


def test_lengths_come_from_what_was_sampled_last_else_from_the_seed(
    finished_run: Path, tmp_path: Path
):
    summary = json.loads((finished_run / "iteration-1/sample/stage.json").read_text("utf-8"))
    counted = summary["summary"]["tokens"] / summary["summary"]["completions"]

    assert assumed_length(finished_run, STAGES, COUNTS, 4).tokens == counted
    assert assumed_length(tmp_path, STAGES, COUNTS, 4) == Length(2.0, "seed completions")
    assert assumed_length(tmp_path, STAGES, COUNTS, 1).tokens == 1


def test_a_step_costs_a_fixed_part_and_a_part_per_token():
    """1 s for 100 tokens and 0.4 s for 40: 0.01 s a token and nothing fixed; 0.7 s: 0.005, 0.5."""
    shared, fixed = step_cost(1.0, 100.0, 0.4, 40.0), step_cost(1.0, 100.0, 0.7, 40.0)

    assert (shared.fixed, shared.per_token) == pytest.approx((0.0, 0.01))
    assert (fixed.fixed, fixed.per_token) == pytest.approx((0.5, 0.005))
    assert step_cost(1.0, 100.0, 2.0, 40.0) == StepCost(fixed=1.0, per_token=0.0)
    assert step_cost(1.0, 100.0, 1.0, 100.0) == StepCost(fixed=0.0, per_token=0.01)


class Tiny:
    """An engine in a process of its own, with one model."""

    name = "tiny"
    capabilities: frozenset[Capability] = frozenset()

    def sampler(self, model: str) -> TorchSampler:
        assert model == "M0"
        time.sleep(0.3)
        return TorchSampler(tiny_model())

    def scorer(self, model: str) -> TorchScorer:
        assert model == "M0"
        return TorchScorer(tiny_model())


def test_rates_are_measured_on_the_engine_that_will_run(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
):
    """A random model of 0.1 M weights; its answers rarely end before the limit of 4."""
    recipe = tiny_recipe(tmp_path / "run")
    params = SamplingParams(1.0, 1.0, 4, (2,))
    rates = measure_rates(
        recipe,
        Cream(set_level_action="skip"),
        params,
        [(5, 6, 7), (8, 9)],
        3,
        Tiny(),
        lambda: tiny_model().to(torch.float32),
    )

    assert isinstance(Tiny(), Engine)
    assert rates.start_seconds > 0.3  # none of it in the rate
    assert rates.load_seconds < rates.start_seconds
    assert rates.sampled_per_second > 0
    assert rates.scored_per_second > 0
    assert rates.seed_model_tokens is not None
    assert 1 <= rates.seed_model_tokens <= 4
    assert rates.fine_tuning.fixed + rates.fine_tuning.per_token > 0
    assert rates.peak_bytes > 1e7
