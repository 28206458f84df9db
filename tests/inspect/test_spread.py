"""What `cream plan` says of workers and ranks, by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cream.engines.crew import Crew
from cream.errors import RecipeError
from cream.inspect.plan import Length, make_plan
from cream.inspect.rates import Rates, StepCost, read_rates
from cream.inspect.spread import (
    PlannedRanks,
    Spread,
    planned_ranks,
    planned_workers,
    scoring_ranks,
    spread_lines,
    step_on_ranks,
)
from cream.recipe import Recipe
from cream.recipe.cluster import RayCluster
from cream.recipe.recipe import ScoringConfig
from cream.records import StageSpec
from cream.runs.plan import TokenCounts

RECIPES = Path(__file__).parents[2] / "recipes"
STAGES = [
    StageSpec(name="s", kind="sample", label="sample", prompts=8),
    StageSpec(name="e", kind="evaluate", label="evaluate", prompts=12),
]


def test_shards_fewer_than_workers_are_told_with_the_setting_that_mends_it(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
):
    """8 prompts in shards of 4 are 2; for 3 workers shards of at most 8 // 3. 12 by 6 are 2."""
    recipe = tiny_recipe(tmp_path / "run", "cluster=ray", "cluster.workers=3")
    config = recipe.cluster
    assert isinstance(config, RayCluster)
    found = planned_workers(recipe, Crew(config, "cuda", "vllm"), STAGES, 1000)
    assert found is not None
    assert (found.workers, found.gpus_per_worker, found.lanes_per_worker) == (3, 1, 2)
    assert found.fewest_shards == 2
    assert found.warnings == [
        "sampling: 2 shards for 3 workers leave some idle; set sampling.prompts_per_shard to 2 or "
        "less",
        "evaluation: 2 shards for 3 workers leave some idle; set evaluation.prompts_per_shard to 4 "
        "or less",
    ]


def test_a_recipe_in_one_process_has_no_workers(tiny_recipe: Callable[..., Recipe], tmp_path: Path):
    recipe = tiny_recipe(tmp_path / "run")
    assert planned_workers(recipe, None, STAGES, 1000) is None
    alone = Spread([planned_ranks("sft", recipe.sft, 1, 1000, itemsize=4)])
    assert spread_lines(alone, {}, timed=True) == []


def test_what_a_rank_holds(tiny_recipe: Callable[..., Recipe], tmp_path: Path):
    """8.03 G parameters: 16 bytes each by 8 ranks; frozen under adapters 4; a state 12. In a round
    7/8 of them come twice in bfloat16 and go once in float32; under adapters they only come."""
    whole = tiny_recipe(tmp_path / "run").training
    found = planned_ranks("training", whole, 8, 8_030_000_000, itemsize=2)
    assert found.round_bytes == 56_210_000_000
    assert found.bytes_per_rank == 16_060_000_000
    assert found.state_bytes == 96_360_000_000
    assert found.warnings == [
        "training.compute.ranks: 8 ranks, and a step has 4 items; the others run ghosts"
    ]
    far = tiny_recipe(tmp_path / "run", "training.compute.nodes=2").training
    across = Spread([planned_ranks("training", far, 4, 8_030_000_000, itemsize=2)])
    assert spread_lines(across, {}, timed=False) == [
        "training: 4 ranks on 2 nodes, 32.1 GB on each, plus activations; a saved state 96.4 GB"
    ]
    lora = tiny_recipe(tmp_path / "run", "training.lora.rank=4").training
    adapters = planned_ranks("training", lora, 4, 1000, itemsize=2)
    assert (adapters.bytes_per_rank, adapters.round_bytes) == (1000, 3000)
    assert adapters.state_bytes is None


ON_PAPER = {
    "sampled_per_second": 0.5,
    "scored_per_second": 20.0,
    "fine_tuning": {"fixed": 0.1, "per_token": 1.4e-4},
    "training": {"fixed": 0.1, "per_token": 1.4e-4},
    "seed_model_tokens": None,
    "load_seconds": 60.0,
    "start_seconds": 90.0,
    "peak_bytes": 0,
    "seconds": 0.0,
}
TWO_RANKS = PlannedRanks(
    section="training",
    ranks=2,
    nodes=1,
    bytes_per_rank=8000,
    round_bytes=4000,
    state_bytes=None,
    device_bytes=None,
    warnings=[],
)


def test_a_step_takes_the_rounds_that_its_micro_batches_need(
    tiny_recipe: Callable[..., Recipe], tmp_path: Path
):
    """52 tokens in micro-batches of 20 are 3: 2 rounds of 2 ranks, 8000 bytes at 4000 a second."""
    settings = tiny_recipe(tmp_path / "run", "training.compute.micro_batch_tokens=20").training

    step = step_on_ranks(52.0, "training", settings, Spread([TWO_RANKS], None, 4000.0))
    assert (step.micro_batches, step.ranks, step.rounds) == (3, 2, 2)
    assert (step.traffic_bytes, step.traffic_seconds) == (8000, 2.0)

    unknown = Spread([TWO_RANKS])
    step = step_on_ranks(52.0, "training", settings, unknown)
    assert step.traffic_seconds is None
    assert spread_lines(unknown, {"training": step}, timed=True)[1] == (
        "  a step: about 3 micro-batches, 2 rounds of 2 ranks as fast as the one timed; 0.0 MB to "
        "and from each, whose time is not counted (--bandwidth says how fast)"
    )

    alone = step_on_ranks(52.0, "training", settings, Spread())
    assert (alone.ranks, alone.rounds, alone.traffic_seconds) == (1, 3, 0.0)
    few = step_on_ranks(5200.0, "training", settings, Spread())
    assert few.micro_batches == settings.optimiser.batch_size  # an item is never divided


def test_seconds_of_two_workers_and_two_ranks(tiny_recipe: Callable[..., Recipe], tmp_path: Path):
    """Sampling: 8 prompts in shards of 4, 32 * 3 tokens, half on each worker, at 10 a second.
    Scoring: 8 * 10 + 32 * 3 tokens at 20 a second, half on each worker; all of them on ranks.
    Training: 16 completions are 8 pairs of 10 + 2 * 3 tokens in 2 steps of 64, 4 micro-batches in
    2 rounds: half of 128 tokens at 0.1 s, and a step 0.25 s and 2 s of traffic. 1 s each to load.
    """
    stages = [
        StageSpec(
            name="s", kind="sample", label="s", source="x", prompts=8, completions=32, model="M1"
        ),
        StageSpec(
            name="l", kind="score", label="l", source="x", prompts=8, completions=32, model="M1"
        ),
        StageSpec(
            name="t",
            kind="train",
            label="t",
            source="x",
            prompts=8,
            completions=16,
            model="M1",
            epochs=1,
        ),
    ]
    rates = Rates(
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
    recipe = tiny_recipe(
        tmp_path / "run",
        "cluster=ray",
        "cluster.workers=2",
        "training.compute.micro_batch_tokens=20",
    )
    config = recipe.cluster
    assert isinstance(config, RayCluster)
    workers = planned_workers(recipe, Crew(config, "cpu"), stages, 1000)

    def seconds(recipe: Recipe) -> list[float | None]:
        told = make_plan(
            recipe,
            tmp_path / "run",
            stages,
            {"x": TokenCounts(10.0, None)},
            Length(3.0, "seed completions"),
            parameters=10,
            disk_bytes=5,
            rates=rates,
            spread=Spread([TWO_RANKS], workers, 4000.0),
        )
        return [row.seconds for row in told.stages]

    sampled, trained = 1 + 0.5 * 96 / 10, 1 + 2 * (0.25 + 2.0) + 0.5 * 128 * 0.1
    assert seconds(recipe) == pytest.approx([sampled, 1 + 0.5 * 176 / 20, trained])
    ranked = recipe.model_copy(update={"scoring": ScoringConfig(ranks=2)})
    assert seconds(ranked) == pytest.approx([sampled, 1 + 176 / 20, trained])


def test_what_a_rank_of_scoring_holds():
    """10 bytes in 3 shards; at most the 7 that are elsewhere come for every batch."""
    found = scoring_ranks(3, 10)
    assert (found.bytes_per_rank, found.round_bytes, found.state_bytes) == (4, 7, None)
    assert spread_lines(Spread([found]), {}, timed=True) == [
        "scoring: 3 ranks, 0.0 MB on each, plus activations"
    ]


@pytest.mark.parametrize("name", ["llama3-8b-8gpu", "llama3-70b-lora"])
def test_the_recipes_for_eight_gpus_are_planned_here_with_a_tiny_model(
    name: str, tmp_path: Path, tiny_inputs: Path
):
    """Their settings as they are, on tiny data, with rates of another machine; 3 and 2 iterations.
    Ray need not be installed to plan, and is not asked."""
    from typer.testing import CliRunner

    from cream.cli import app

    values = yaml.safe_load((RECIPES / f"{name}.yaml").read_text())
    iterations = values["iterations"]
    sources = {
        "seed": {"sources": [{"source": "file", "path": "seed.jsonl"}]},
        "prompts": {
            "per_iteration": 32 // iterations,
            "sources": [{"source": "file", "path": "prompts.jsonl", "verifier": "exact_match"}],
        },
        "test": {"sources": [{"source": "file", "path": "test.jsonl", "verifier": "exact_match"}]},
    }
    values |= {"data": sources, "engine": "torch", "run_dir": str(tmp_path / "run")}
    values["model"]["name"] = str(tiny_inputs / "model")
    values["sampling"] |= {"max_completion_tokens": 64}
    values["evaluation"] |= {"max_completion_tokens": 64}
    values["cluster"] |= {"gpus_per_worker": 0}
    path = tiny_inputs / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values))
    rates = tmp_path / "rates.json"
    rates.write_text(json.dumps(ON_PAPER))
    overrides = ["sft.compute.ranks=8", "training.compute.ranks=8", "cluster.workers=8"]
    options = [f"--set={override}" for override in overrides]
    known = ["--rates", str(rates), "--bandwidth", "100"]

    done = CliRunner().invoke(app, ["plan", str(path), *options, *known])

    assert done.exit_code == 0, done.output
    assert "cluster: 8 workers" in done.output
    for section in ("sft", "training"):
        assert re.search(rf"^{section}: 8 ranks, .* on each", done.output, re.MULTILINE)
    assert len(re.findall("to and from each, counted as", done.output)) == 2
    assert re.search(r"^left: about [0-9]", done.output, re.MULTILINE)


def test_rates_that_lack_something_are_refused(tmp_path: Path):
    path = tmp_path / "rates.json"
    path.write_text(json.dumps({**ON_PAPER, "training": {"fixed": 0.0}}))
    with pytest.raises(RecipeError, match=r"--rates: .*rates\.json: training\.per_token: .*timing"):
        read_rates(path)
    with pytest.raises(RecipeError, match=r"cannot read .*: No such file"):
        read_rates(tmp_path / "none.json")
