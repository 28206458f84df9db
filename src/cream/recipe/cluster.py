"""The ``cluster`` section of a recipe: where completions are drawn and scored.

Training is told by ``compute.ranks`` and ``compute.nodes`` (`cream.recipe.training`). Nothing here
decides a result beyond floating-point order, so all of it may change between two attempts at a run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cream.recipe.base import Section, usual
from cream.recipe.model import NonBlank


class LocalCluster(Section):
    """This process, on one device."""

    name: Literal["local"] = "local"


class RayCluster(Section):
    """Workers on the GPUs or CPUs of a Ray cluster; this process alone writes the run directory."""

    name: Literal["ray"] = "ray"
    address: NonBlank = "auto"
    """Address of the cluster, ``HOST:PORT``. ``auto``: the one that RAY_ADDRESS names, else a Ray
    of this machine's own, which ends with the command."""
    workers: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Workers, each with a whole model. ``auto``: as many as the cluster has room for."""
    gpus_per_worker: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    """GPUs of one worker. ``auto``: 1 where the model runs on a GPU, else 0. More than one share
    the weights (tensor parallelism on one node), which vLLM can and torch cannot."""
    cpus_per_worker: int = Field(default=1, ge=1)
    """CPU cores that one worker is counted as."""
    threads: int = Field(default=1, ge=1)
    """Threads of torch in a worker. On a CPU results are equal bit for bit for equal numbers."""
    start_seconds: float = Field(default=600.0, gt=0.0)
    """How long the run may be without any worker before it ends with an error."""
    deaths_per_shard: int = Field(default=3, ge=1)
    """Workers that may die over one shard before the run ends and names its prompts."""


AnyCluster = LocalCluster | RayCluster
ClusterConfig = Annotated[
    Annotated[AnyCluster, Field(discriminator="name")],
    usual("name", "local"),
]
"""``cluster: ray`` is short for ``cluster: {name: ray}``."""
