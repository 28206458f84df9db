"""What runs in a worker of a crew: the engine of one process, on one model at a time.

It reads model folders and nothing else of a run. Failures are raised: whether a question is asked
again is for the driver to say (`cream.engines.crew`).
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

import cream
from cream.engines.checkpoints import Checkpoints
from cream.engines.engine import EngineChoice, open_engine
from cream.errors import ModelError
from cream.kernels.library import kernels
from cream.kernels.memory import keep_freed_memory
from cream.models.positions import Reach
from cream.protocols import Engine, SamplingParams
from cream.recipe.engine import TorchEngine, VllmEngine
from cream.types import SampledGroup, SamplingRequest, ScoredGroup, ScoringRequest

AGREED = ("cream", "torch", "ray", "device", "capability", "kernels", "threads")
"""What must be equal in all workers of a run, or their completions would differ."""


@dataclass(frozen=True, slots=True)
class About:
    """What a worker says of itself when it joins."""

    node: str
    pid: int
    cream: str
    torch: str
    ray: str
    python: str
    device: str
    """Name of the GPU, or of the processor's architecture."""
    capability: str
    """What its arithmetic can do: of a GPU the compute capability, else the vector instructions."""
    kernels: str
    threads: int
    clock: float
    """Seconds since the epoch, by the node's clock."""


@dataclass(frozen=True, slots=True)
class Models:
    """Which models a question is about, and how they are run: what opens an engine elsewhere."""

    folder: Path
    seed_folder: Path
    context_length: int | None
    compute_dtype: torch.dtype
    device: str
    trust_remote_code: bool
    fast: Reach
    settings: TorchEngine | VllmEngine
    token_budget: int
    gpus: int


class Worker:
    """The actor. One question at a time; the model of the last one stays loaded."""

    def __init__(self, device: str, threads: int) -> None:
        keep_freed_memory()
        torch.set_num_threads(threads)
        self._device = device
        self._models: Models | None = None
        self._checkpoints: Checkpoints | None = None
        self._engine: Engine | None = None

    def about(self) -> About:
        """What it is; a worker that has answered is ready."""
        if self._device == "cuda":
            device, capability = (
                torch.cuda.get_device_name(),
                str(torch.cuda.get_device_capability()),
            )
        else:
            device, capability = platform.machine(), torch.backends.cpu.get_cpu_capability()
        return About(
            node=platform.node(),
            pid=os.getpid(),
            cream=cream.__version__,
            torch=torch.__version__,
            ray=importlib.metadata.version("ray"),
            python=platform.python_version(),
            device=device,
            capability=capability,
            kernels=kernels().reason if self._device == "cpu" else "none on a GPU",
            threads=torch.get_num_threads(),
            clock=time.time(),
        )

    def sample(
        self,
        models: Models,
        model: str,
        requests: Sequence[SamplingRequest],
        params: SamplingParams,
    ) -> list[SampledGroup]:
        """See `cream.protocols.Sampler`."""
        return list(self._opened(models, model).sampler(model).sample(requests, params))

    def score(
        self, models: Models, model: str, requests: Sequence[ScoringRequest]
    ) -> list[ScoredGroup]:
        """See `cream.protocols.LogpScorer`."""
        return list(self._opened(models, model).scorer(model).score(requests))

    def close(self) -> None:
        """Hold no model any more; an engine's own process ends."""
        if self._checkpoints is not None:
            self._checkpoints.close()

    def read(self, path: Path) -> str:
        """Text of a small file, for a look at whether this node sees it.

        Raises:
            OSError: It does not.
        """
        return path.read_text(encoding="utf-8")

    def _opened(self, models: Models, model: str) -> Engine:
        if self._engine is None or models != self._models:
            if self._checkpoints is not None:
                self._checkpoints.close()
            self._models, self._checkpoints = models, _checkpoints(models)
            self._engine = open_engine(
                EngineChoice(models.settings, "the driver says so"),
                self._checkpoints,
                token_budget=models.token_budget,
                gpus=models.gpus,
            )
        assert self._checkpoints is not None
        folder = self._checkpoints.path(model)
        if not folder.is_dir():
            raise ModelError(
                f"node {platform.node()} does not see {folder}; models and run_dir must be on a "
                "disk that all nodes share, under one path"
            )
        return self._engine


def _checkpoints(models: Models) -> Checkpoints:
    return Checkpoints(
        folder=models.folder,
        seed_folder=models.seed_folder,
        seed_name=str(models.seed_folder),
        tokenizer=None,  # ids in, ids out; nothing is saved here
        device=torch.device(models.device),
        compute_dtype=models.compute_dtype,
        context_length=models.context_length,
        trust_remote_code=models.trust_remote_code,
        fast=models.fast,
    )
