"""Two raylets on this machine, one of which goes away."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from crews import engine, sample_parts

from cream.engines.crew_worker import Worker

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


def test_a_node_that_goes_away_makes_the_crew_smaller_and_changes_no_result(
    tmp_path: Path, tiny_inputs: Path
):
    """No node joins in its place, so the replacement is never placed."""
    pytest.importorskip("ray", reason="needs Ray: `make test-cluster` installs it")
    nodes = importlib.import_module("ray.cluster_utils")

    parts = [[f"p{k}"] for k in range(8)]
    cluster = nodes.Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        second = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        on = engine(tmp_path / "two", tiny_inputs, Worker, address=cluster.address)
        heard = Removing(lambda: cluster.remove_node(second, allow_graceful=False))
        whole = sample_parts(on, tmp_path / "two", parts, heard)
        on = engine(tmp_path / "one", tiny_inputs, Worker, address=cluster.address, workers=1)
        alone = sample_parts(on, tmp_path / "one", parts, Removing())
    finally:
        cluster.shutdown()

    assert any("2 workers" in note for note in heard.notes)
    assert [pq.read_table(p).to_pylist() for p in whole.parts()] == [
        pq.read_table(p).to_pylist() for p in alone.parts()
    ]
    assert len(whole.parts()) == len(parts)
