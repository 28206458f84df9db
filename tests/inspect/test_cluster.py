"""What the disk of a run directory can do, and what the nodes of a cluster are like."""

from __future__ import annotations

from pathlib import Path

import pytest

from cream.inspect.cluster import differing, disk_problems, examine_cluster
from cream.recipe.cluster import RayCluster


def test_a_disk_with_locks_and_links_has_no_problem_and_keeps_nothing(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("nonce")
    assert disk_problems(file) == []
    assert file.read_text() == "nonce"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.cluster
def test_a_cluster_of_one_node_is_examined(tmp_path: Path):
    pytest.importorskip("ray", reason="needs Ray: `make test-cluster` installs it")
    (node,) = examine_cluster(RayCluster(), tmp_path)
    assert node.problems == []
    assert node.about["threads"] == "1"
    assert abs(node.clock_seconds) < 2
    assert differing([node]) == []
    assert list(tmp_path.iterdir()) == []
