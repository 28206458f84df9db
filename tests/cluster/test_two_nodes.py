"""Two raylets on this machine, one of which goes away."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from crews import engine, sample_parts
from processes import Command
from ranked import rank_pids, ranked_training

from cream.engines.crew import Crew
from cream.engines.crew_worker import Worker
from cream.errors import TrainingError
from cream.models.loading import load_model
from cream.recipe.cluster import RayCluster
from cream.training.launch import ThisMachine, train_in_ranks
from cream.training.nodes import SeveralNodes

pytestmark = pytest.mark.cluster


class Removing:
    """A `Progress` that takes a node away once a part is kept."""

    def __init__(self, remove: Any = None) -> None:
        self.remove, self.notes = remove, []

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        pass

    def advance(self, count: int, live: Any = None) -> None:
        if self.remove is not None:
            self.remove()
            self.remove = None

    def advance_to(self, done: int, total: int, live: Any = None) -> None:
        pass

    def finish(self, result: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A Ray cluster whose head has a core; other nodes can be added."""
    ray = pytest.importorskip("ray", reason="needs Ray: `make test-cluster` installs it")
    nodes = importlib.import_module("ray.cluster_utils")
    made = nodes.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    yield made
    ray.shutdown()
    made.shutdown()


def test_a_node_that_goes_away_makes_the_crew_smaller_and_changes_no_result(
    cluster: Any, tmp_path: Path, tiny_inputs: Path
):
    """No node joins in its place, so the replacement is never placed."""
    parts = [[f"p{k}"] for k in range(8)]
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    on = engine(tmp_path / "two", tiny_inputs, Worker, address=cluster.address)
    heard = Removing(lambda: cluster.remove_node(second, allow_graceful=False))
    whole = sample_parts(on, tmp_path / "two", parts, heard)
    on = engine(tmp_path / "one", tiny_inputs, Worker, address=cluster.address, workers=1)
    alone = sample_parts(on, tmp_path / "one", parts, Removing())

    assert any("2 workers" in note for note in heard.notes)
    assert [pq.read_table(p).to_pylist() for p in whole.parts()] == [
        pq.read_table(p).to_pylist() for p in alone.parts()
    ]
    assert len(whole.parts()) == len(parts)


def ranks_on(cluster: Any, nodes: int, start_seconds: float) -> SeveralNodes:
    crew = Crew(RayCluster(name="ray", address=cluster.address), "cpu")
    return SeveralNodes(crew.connected, nodes, 1, on_gpus=False, start_seconds=start_seconds)


def test_ranks_of_two_nodes_train_as_two_ranks_of_one_do(cluster: Any, tmp_path: Path):
    """Bit for bit; and no rank is left on either node."""
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    notes: list[str] = []
    far, near = ranked_training(tmp_path / "far"), ranked_training(tmp_path / "near")
    told = {"on_step": lambda *_: None, "note": notes.append}
    two = train_in_ranks(far, tmp_path / "far" / "ranks", ranks_on(cluster, 2, 60.0), **told)
    one = train_in_ranks(near, tmp_path / "near" / "ranks", ThisMachine(2), **told)

    assert notes == []
    assert two.metrics == one.metrics
    assert one.steps == 4
    whole, other = load_model(far.result).state_dict(), load_model(near.result).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in whole.items())
    assert rank_pids(tmp_path) == []


def test_ranks_of_a_node_that_goes_away_go_on_where_another_has_joined(
    cluster: Any, tmp_path: Path
):
    """From the last state, with the weights of ranks that nobody disturbed."""
    second = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    notes: list[str] = []
    cut, whole = ranked_training(tmp_path / "cut"), ranked_training(tmp_path / "whole")

    def replace_node(step: int, total: int, metrics: Mapping[str, float]) -> None:
        if step == 2 and not notes:
            cluster.remove_node(second, allow_graceful=False)
            cluster.add_node(num_cpus=1)

    places = ranks_on(cluster, 2, 60.0)
    train_in_ranks(cut, tmp_path / "cut" / "ranks", places, on_step=replace_node, note=notes.append)
    train_in_ranks(
        whole,
        tmp_path / "whole" / "ranks",
        ThisMachine(2),
        on_step=lambda *_: None,
        note=notes.append,
    )

    (note,) = notes
    assert note.endswith("all 2 ranks start again from the last state")
    one, other = load_model(cut.result).state_dict(), load_model(whole.result).state_dict()
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_nodes_that_are_not_there_are_waited_for_and_then_named(cluster: Any, tmp_path: Path):
    with pytest.raises(TrainingError, match=r"compute\.nodes: no 2 nodes .* 1 nodes are there"):
        train_in_ranks(
            ranked_training(tmp_path),
            tmp_path / "ranks",
            ranks_on(cluster, 2, 2.0),
            on_step=lambda *_: None,
            note=lambda text: None,
        )
    assert rank_pids(tmp_path) == []


def test_a_killed_driver_leaves_no_rank_on_any_node_and_its_run_goes_on(
    cluster: Any, recipe_file: Path, tmp_path: Path
):
    cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    run = tmp_path / "run"
    given = (
        f"run_dir={run}",
        "iterations=1",
        "cluster=ray",
        f"cluster.address={cluster.address}",
        "sft.compute.nodes=2",
        "sft.epochs=40",
        "sft.compute.save_state_every_minutes=0",
    )
    words = ("run", str(recipe_file), *(part for c in given for part in ("--set", c)))
    killed = Command(*words)
    killed.wait_for(lambda: any((run / "sft" / "train" / "state").glob("step-*")))
    killed.process.kill()
    killed.said()
    deadline = time.monotonic() + 60
    while rank_pids(run / "sft" / "train" / "ranks") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert rank_pids(run / "sft" / "train" / "ranks") == []

    again = Command(*words)
    said = again.said()
    assert again.process.returncode == 0, said
    world = json.loads((run / "sft" / "train" / "world.json").read_text())
    assert world == {"ranks": 2, "nodes": 2, "device": "cpu"}
    assert rank_pids(tmp_path) == []
