"""How a recipe spreads over workers and ranks, and what the nodes of a Ray cluster are like.

The first is arithmetic on the recipe and starts nothing. The second asks one worker on every node:
what it is, and whether it sees a folder that this process writes to.
"""

from __future__ import annotations

import math
import os
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from fcntl import LOCK_EX, LOCK_NB, flock
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import Field
from rich.console import Console

from cream.engines.crew import LANES_PER_WORKER, Crew
from cream.engines.crew_worker import AGREED, About, Worker
from cream.errors import DependencyError
from cream.recipe import Recipe
from cream.recipe.cluster import RayCluster
from cream.recipe.training import TrainingSettings
from cream.records import Count, Record, StageSpec
from cream.report.table import Table, terminal
from cream.report.terminal import size

WHOLE_BYTES, FROZEN_BYTES, STATE_BYTES = 16, 4, 12
"""Per parameter: trained (float32 weight, gradient, two moments); frozen under adapters (float32);
in a saved state (weight and moments)."""
CLOCK_SECONDS = 2.0
"""Difference of two clocks that is worth a look."""
ASK_SECONDS = 120.0
"""How long a node may take to start a worker."""


class PlannedWorkers(Record):
    """Workers that sample and score."""

    workers: Count | None
    """Null where the cluster decides, once it is asked."""
    model_bytes: Count
    """Weights that a worker holds; vLLM shares them among its GPUs, scoring does not."""
    gpus_per_worker: Count
    lanes_per_worker: Count
    fewest_shards: Count
    """Shards of the stage that has fewest of them."""
    warnings: list[str]


class PlannedRanks(Record):
    """Ranks that train, and what each holds."""

    section: str
    ranks: Count
    nodes: Count
    bytes_per_rank: Count
    """Weights, gradients and moments; activations and one gathered layer come on top."""
    state_bytes: Count | None
    """A saved state; null with adapters, whose state is small."""
    device_bytes: Count | None
    """Memory of a GPU here; null without one."""
    warnings: list[str]


class NodeFound(Record):
    """A node of a Ray cluster, as a worker on it sees it."""

    node: str
    about: dict[str, Annotated[str, Field(min_length=1)]]
    """Versions, device, threads."""
    clock_seconds: float
    """Its clock minus ours; the time of the question is in it."""
    problems: list[str]


def planned_workers(
    recipe: Recipe, crew: Crew | None, stages: Sequence[StageSpec], model_bytes: int
) -> PlannedWorkers | None:
    """How sampling and scoring spread; None for a recipe that stays in one process.

    Args:
        recipe: What is to be run.
        crew: Its workers, not started.
        stages: Its plan.
        model_bytes: Weights in the arithmetic of sampling and scoring.
    """
    if crew is None or not isinstance(recipe.cluster, RayCluster):
        return None
    shards = {}
    for spec in stages:
        settings = recipe.evaluation if spec.kind == "evaluate" else recipe.sampling
        if spec.kind in ("sample", "evaluate"):
            shards[spec.kind] = math.ceil(spec.prompts / settings.prompts_per_shard), settings
    workers = None if recipe.cluster.workers == "auto" else recipe.cluster.workers
    warnings = []
    for kind, (count, settings) in shards.items():
        section = "evaluation" if kind == "evaluate" else "sampling"
        if workers is not None and count < workers:
            fits = max(1, count * settings.prompts_per_shard // workers)
            warnings.append(
                f"{section}: {count} shards for {workers} workers leave some idle; set "
                f"{section}.prompts_per_shard to {fits} or less"
            )
    has = gpu_bytes()
    if has is not None and model_bytes > has:
        warnings.append(
            f"scoring: {size(model_bytes)} of weights on one GPU of {size(has)} do not fit; torch "
            "scores on one GPU of a worker"
        )
    return PlannedWorkers(
        workers=workers,
        model_bytes=model_bytes,
        gpus_per_worker=crew.gpus,
        lanes_per_worker=LANES_PER_WORKER[crew.engine],
        fewest_shards=min((count for count, _ in shards.values()), default=0),
        warnings=warnings,
    )


def planned_ranks(
    section: str, settings: TrainingSettings, ranks: int, parameters: int
) -> PlannedRanks:
    """What each rank of a training holds, and whether all have something to do."""
    per_parameter = WHOLE_BYTES if settings.lora is None else FROZEN_BYTES
    held = math.ceil(per_parameter * parameters / ranks)
    has = gpu_bytes()
    warnings = []
    if ranks > settings.optimiser.batch_size:
        warnings.append(
            f"{section}.compute.ranks: {ranks} ranks, and a step has "
            f"{settings.optimiser.batch_size} items; the others run ghosts"
        )
    if has is not None and held > has:
        warnings.append(
            f"{section}: {size(held)} on each GPU of {size(has)} does not fit; take more ranks, or "
            f"adapters ({section}.lora)"
        )
    return PlannedRanks(
        section=section,
        ranks=ranks,
        nodes=settings.compute.nodes,
        bytes_per_rank=held,
        state_bytes=STATE_BYTES * parameters if settings.lora is None else None,
        device_bytes=has,
        warnings=warnings,
    )


def gpu_bytes() -> int | None:
    """Memory of the first GPU here; None without one."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def spread_lines(workers: PlannedWorkers | None, ranks: Sequence[PlannedRanks]) -> list[str]:
    """Both in words; nothing of a recipe that runs in one process."""
    lines = []
    if workers is not None:
        count = "as many workers as the cluster has room for"
        if workers.workers is not None:
            count = f"{workers.workers} workers"
        lines.append(
            f"cluster: {count}, {size(workers.model_bytes)} of weights and "
            f"{workers.gpus_per_worker} GPUs each, {workers.lanes_per_worker} "
            f"shards on their way to each; {workers.fewest_shards} shards in the smallest stage"
        )
        lines += [f"  {warning}" for warning in workers.warnings]
    for one in ranks:
        state = "" if one.state_bytes is None else f"; a saved state {size(one.state_bytes)}"
        if one.ranks > 1 or one.warnings:
            where = f" on {one.nodes} nodes" if one.nodes > 1 else ""
            lines.append(
                f"{one.section}: {one.ranks} ranks{where}, {size(one.bytes_per_rank)} on each, "
                f"plus activations{state}"
            )
            lines += [f"  {warning}" for warning in one.warnings]
    return lines


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
    if find_spec("ray") is None:
        raise DependencyError("a look at a cluster needs Ray; install Cream's extra `ray`")
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
