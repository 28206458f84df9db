"""What the nodes of a Ray cluster are like.

One worker on every node is asked what it is, and whether it sees a folder that this process writes
to.
"""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from rich.console import Console

from cream.engines.crew import Crew
from cream.engines.crew_worker import AGREED, About, Worker
from cream.recipe.cluster import RayCluster
from cream.records import Record
from cream.report.table import Table, terminal

CLOCK_SECONDS = 2.0
"""Difference of two clocks that is worth a look."""
ASK_SECONDS = 120.0
"""How long a node may take to start a worker."""


class NodeFound(Record):
    """A node of a Ray cluster, as a worker on it sees it."""

    node: str
    about: dict[str, Annotated[str, Field(min_length=1)]]
    """Versions, device, threads."""
    clock_seconds: float
    """Its clock minus ours; the time of the question is in it."""
    problems: list[str]


def examine_cluster(config: RayCluster, folder: Path) -> list[NodeFound]:
    """Ask a worker on every node of a cluster.

    Args:
        config: How to reach it, and the threads of a worker.
        folder: A folder that all nodes are to share, such as that of runs; a file is written there
            and removed.

    Raises:
        DependencyError: Ray is not installed.
        RunError: The folder cannot be written.
    """
    crew = Crew(config, "cuda" if torch.cuda.is_available() else "cpu")
    ray = crew.connected()
    nonce, file = secrets.token_hex(8), folder.resolve() / f".tmp-{secrets.token_hex(8)}"
    try:
        file.write_text(nonce, encoding="utf-8")
        own = disk_problems(file)
        return [
            _node(ray, node, config, file, nonce, own)
            for node in sorted(ray.nodes(), key=lambda node: node["NodeManagerHostname"])
            if node["Alive"]
        ]
    finally:
        file.unlink(missing_ok=True)
        crew.close()


def disk_problems(file: Path) -> list[str]:
    """What the disk under a file of ours cannot do that a run directory needs."""
    found = []
    with file.open("r", encoding="utf-8") as one, file.open("r", encoding="utf-8") as other:
        try:
            flock(one, LOCK_EX | LOCK_NB)
            with suppress(BlockingIOError):
                flock(other, LOCK_EX | LOCK_NB)
                found.append("locks have no effect here: two runs could write one directory")
        except OSError as error:
            found.append(f"no locks here ({error.strerror})")
    moved, linked = file.with_suffix(".moved"), file.with_suffix(".linked")
    try:
        file.rename(moved)
        moved.rename(file)
        os.link(file, linked)
    except OSError as error:
        found.append(f"no renames or hard links here ({error.strerror})")
    finally:
        linked.unlink(missing_ok=True)
    return found


def _node(
    ray: Any, node: dict[str, Any], config: RayCluster, file: Path, nonce: str, own: list[str]
) -> NodeFound:
    name, gpus = str(node["NodeManagerHostname"]), node["Resources"].get("GPU", 0)
    strategies = import_module("ray.util.scheduling_strategies")
    placed = strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
    options = {"num_cpus": 0, "num_gpus": int(gpus > 0), "scheduling_strategy": placed}
    worker = ray.remote(**options)(Worker).remote("cuda" if gpus else "cpu", config.threads)
    try:
        about: About = ray.get(worker.about.remote(), timeout=ASK_SECONDS)
        clock = about.clock - time.time()
        problems = [*own, *(["clocks differ"] if abs(clock) > CLOCK_SECONDS else [])]
        try:
            seen = ray.get(worker.read.remote(file), timeout=ASK_SECONDS) == nonce
        except ray.exceptions.RayTaskError:
            seen = False
        if not seen:
            problems.append(f"does not see {file.parent}")
        known = {k: str(getattr(about, k)) for k in ("python", *AGREED)}
        return NodeFound(node=name, about=known, clock_seconds=clock, problems=problems)
    except (ray.exceptions.RayError, TimeoutError) as error:
        words = str(error).strip().splitlines() or [type(error).__name__]
        return NodeFound(node=name, about={}, clock_seconds=0.0, problems=[words[-1]])
    finally:
        ray.kill(worker)


def differing(nodes: Sequence[NodeFound]) -> list[str]:
    """What is not the same on all nodes and must be."""
    return [k for k in AGREED if len({node.about.get(k) for node in nodes if node.about}) > 1]


def print_nodes(console: Console, nodes: Sequence[NodeFound]) -> None:
    """A row per node, and what differs."""
    shown = ("cream", "torch", "ray", "python", "device", "threads")
    rows = [
        (
            node.node,
            *(node.about.get(key, "") for key in shown),
            f"{node.clock_seconds:+.1f} s",
            "; ".join(node.problems) or "ok",
        )
        for node in nodes
    ]
    console.print(terminal(Table("cluster", ("node", *shown, "clock", ""), tuple(rows), words=9)))
    for key in differing(nodes):
        console.print(f"{key} differs between nodes; runs with all of them would be refused")
