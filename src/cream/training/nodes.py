"""Ranks on several nodes of a Ray cluster: an agent on each node starts them there.

An agent holds the standard input of its ranks, which end with it, as it ends with the driver. Ray
places the agents and carries their answers; ranks speak to each other without it.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from cream.errors import CreamError, TrainingError
from cream.training.launch import GRACE_SECONDS, LOST, Ranks, environments, free_port
from cream.training.rank import JOB

PATIENCE_SECONDS = 1.0
"""How long at a time free nodes are waited for, so that Ctrl-C is heard between."""


class Agent:
    """The actor of one node."""

    def __init__(self) -> None:
        self._ranks: Ranks | None = None

    def place(self) -> tuple[str, int]:
        """Address of its node, and a port there that is free."""
        address: str = import_module("ray.util").get_node_ip_address()
        return address, free_port(address)

    def start(self, folder: Path, told: list[dict[str, str]]) -> None:
        """Start its ranks, with an environment each.

        Raises:
            TrainingError: This node does not see the folder.
        """
        if not (folder / JOB).is_file():
            raise TrainingError(
                f"node {platform.node()} does not see {folder}; models and run_dir must be on a "
                "disk that all nodes share, under one path"
            )
        self._ranks = Ranks(folder, told)

    def ended(self) -> list[int | None]:
        """See `Ranks`."""
        assert self._ranks is not None
        return self._ranks.ended()

    def end(self) -> None:
        """See `Ranks`."""
        if self._ranks is not None:
            self._ranks.end()


@dataclass(frozen=True, slots=True)
class SeveralNodes:
    """As many ranks on each of several nodes."""

    connected: Callable[[], Any]
    """Ray, connected to the cluster."""
    nodes: int
    each: int
    """Ranks of one node."""
    on_gpus: bool
    """Whether a rank has a GPU of its own."""
    start_seconds: float
    """How long to wait for nodes that are free."""

    @property
    def ranks(self) -> int:
        """See `cream.training.launch.Places`."""
        return self.nodes * self.each

    def start(self, folder: Path) -> AcrossNodes:
        """See `cream.training.launch.Places`.

        Raises:
            TrainingError: There are not so many free nodes, or one does not see the folder.
        """
        ray = self.connected()
        group = self._group()
        strategy = import_module("ray.util.scheduling_strategies").PlacementGroupSchedulingStrategy
        needs = {"num_cpus": 1, "num_gpus": self.each if self.on_gpus else 0}
        agents = [
            ray.remote(max_restarts=0, max_task_retries=0, **needs)(Agent)
            .options(scheduling_strategy=strategy(group, placement_group_bundle_index=n))
            .remote()
            for n in range(self.nodes)
        ]
        running = AcrossNodes(ray, agents, group, self.each)
        try:
            host, port = ray.get(agents[0].place.remote())
            told = environments(self.each, self.nodes, host, port)
            where = folder.resolve()
            ray.get([a.start.remote(where, of) for a, of in zip(agents, told, strict=True)])
        except ray.exceptions.RayTaskError as error:
            running.end()
            if isinstance(error.cause, CreamError):
                raise error.cause from None
            raise TrainingError(f"the ranks of a node did not start: {error.cause}") from error
        except ray.exceptions.RayError:
            pass  # a node is lost already, as its ranks will say
        return running

    def _group(self) -> Any:
        """A place on each of so many nodes."""
        ray, util = self.connected(), import_module("ray.util")
        bundle = {"CPU": 1, **({"GPU": self.each} if self.on_gpus else {})}
        group = util.placement_group([bundle] * self.nodes, strategy="STRICT_SPREAD")
        until = time.monotonic() + self.start_seconds
        while not group.wait(timeout_seconds=PATIENCE_SECONDS):
            if time.monotonic() > until:
                util.remove_placement_group(group)
                free = [dict(n["Resources"]) for n in ray.nodes() if n["Alive"]]
                raise TrainingError(
                    f"compute.nodes: no {self.nodes} nodes with {bundle} each were free in "
                    f"{self.start_seconds:.0f} s; {len(free)} nodes are there. Look at the "
                    "cluster (`ray status`), set fewer nodes or ranks, or wait longer "
                    "(cluster.start_seconds)"
                )
        return group


class AcrossNodes:
    """Ranks of several nodes, in the order of their numbers."""

    def __init__(self, ray: Any, agents: Sequence[Any], group: Any, each: int) -> None:
        self._ray, self._agents, self._group, self._each = ray, agents, group, each

    def ended(self) -> list[int | None]:
        """See `cream.training.launch.Running`."""
        codes: list[int | None] = []
        for answer in [agent.ended.remote() for agent in self._agents]:
            try:
                codes += self._ray.get(answer)
            except self._ray.exceptions.RayError:
                codes += [LOST] * self._each
        return codes

    def end(self) -> None:
        """See `cream.training.launch.Running`."""
        asked = [agent.end.remote() for agent in self._agents]
        self._ray.wait(asked, num_returns=len(asked), timeout=GRACE_SECONDS)
        for agent in self._agents:
            with suppress(self._ray.exceptions.RayError):
                self._ray.kill(agent, no_restart=True)
        import_module("ray.util").remove_placement_group(self._group)
