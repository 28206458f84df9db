"""What `cream plan` says of workers and ranks, by hand; what the disk of a run directory can do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cream.engines.crew import Crew
from cream.inspect.cluster import disk_problems, planned_ranks, planned_workers, spread_lines
from cream.recipe import Recipe
from cream.recipe.cluster import RayCluster
from cream.records import StageSpec

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
    assert spread_lines(None, [planned_ranks("sft", recipe.sft, 1, 1000)]) == []


def test_what_a_rank_holds(tiny_recipe: Callable[..., Recipe], tmp_path: Path):
    """8.03 G parameters: 16 bytes each by 8 ranks; frozen under adapters 4; a state 12."""
    whole = tiny_recipe(tmp_path / "run").training
    found = planned_ranks("training", whole, 8, 8_030_000_000)
    assert found.bytes_per_rank == 16_060_000_000
    assert found.state_bytes == 96_360_000_000
    assert found.warnings == [
        "training.compute.ranks: 8 ranks, and a step has 4 items; the others run ghosts"
    ]
    far = tiny_recipe(tmp_path / "run", "training.compute.nodes=2").training
    assert spread_lines(None, [planned_ranks("training", far, 4, 8_030_000_000)]) == [
        "training: 4 ranks on 2 nodes, 32.1 GB on each, plus activations; a saved state 96.4 GB"
    ]
    lora = tiny_recipe(tmp_path / "run", "training.lora.rank=4").training
    adapters = planned_ranks("training", lora, 4, 1000)
    assert adapters.bytes_per_rank == 1000
    assert adapters.state_bytes is None


def test_a_disk_with_locks_and_links_has_no_problem_and_keeps_nothing(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("nonce")
    assert disk_problems(file) == []
    assert file.read_text() == "nonce"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.cluster
def test_a_cluster_of_one_node_is_examined(tmp_path: Path):
    pytest.importorskip("ray", reason="needs Ray: `make test-cluster` installs it")
    from cream.inspect.cluster import differing, examine_cluster

    (node,) = examine_cluster(RayCluster(), tmp_path)
    assert node.problems == []
    assert node.about["threads"] == "1"
    assert abs(node.clock_seconds) < 2
    assert differing([node]) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["llama3-8b-8gpu", "llama3-70b-lora"])
def test_the_recipes_for_eight_gpus_are_planned_here_with_a_tiny_model(
    name: str, tmp_path: Path, tiny_inputs: Path
):
    """Their settings as they are, on tiny data and without calibration; 3 and 2 iterations."""
    pytest.importorskip("ray", reason="needs Ray: `make test-cluster` installs it")
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
    done = CliRunner().invoke(app, ["plan", str(path), "--no-calibrate"])
    assert done.exit_code == 0, done.output
    assert "cluster: as many workers as the cluster has room for" in done.output
