"""The engine of a run on a cluster: what is asked of a model goes to a crew, a shard at a time."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cream.engines.checkpoints import Checkpoints
from cream.engines.crew import Crew
from cream.engines.crew_worker import Models
from cream.engines.engine import EngineChoice, OnTorch
from cream.errors import RecipeError
from cream.protocols import Capability, LogpScorer, SamplingParams
from cream.recipe.cluster import RayCluster
from cream.recipe.engine import TorchEngine, VllmEngine
from cream.types import SampledGroup, SamplingRequest, ScoredGroup, ScoringRequest

SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Environment variable of a driver that ``ray job submit`` has started."""


@dataclass(frozen=True, slots=True)
class OnCrew:
    """Samples and scores with the workers of a crew; torch or vLLM there."""

    crew: Crew
    checkpoints: Checkpoints
    """Of the driver: where models are; loads none while the crew works."""
    settings: TorchEngine | VllmEngine
    token_budget: int = 4096
    ranks: int = 1
    """Above 1, scoring is that of `OnTorch` with so many on the driver's machine."""
    capabilities: frozenset[Capability] = frozenset({Capability.LOGPS})

    @property
    def name(self) -> str:
        """See `cream.protocols.Engine`."""
        return self.settings.name

    def sampler(self, model: str) -> CrewSampler:
        """See `cream.protocols.Engine`."""
        return CrewSampler(self.crew, self._models(model), model)

    def scorer(self, model: str) -> LogpScorer:
        """See `cream.protocols.Engine`."""
        if self.ranks > 1:
            return OnTorch(self.checkpoints, self.token_budget, self.ranks).scorer(model)
        return CrewScorer(self.crew, self._models(model), model)

    def of(self, checkpoints: Checkpoints) -> OnCrew:
        """The same crew with torch on the models of others, such as a judge of its own."""
        return replace(self, checkpoints=checkpoints, settings=TorchEngine(), ranks=1)

    def _models(self, model: str) -> Models:
        own = self.checkpoints
        own.existing(model)
        own.hold("crew", lambda: self.crew, Crew.release)
        return Models(
            folder=own.folder.resolve(),
            seed_folder=own.seed_folder.resolve(),
            context_length=own.context_length,
            compute_dtype=own.compute_dtype,
            device=own.device.type,
            trust_remote_code=own.trust_remote_code,
            fast=own.fast,
            settings=self.settings,
            token_budget=self.token_budget,
            gpus=self.crew.gpus,
        )


@dataclass(frozen=True, slots=True)
class CrewSampler:
    """A `Sampler`: all requests of a call are one question."""

    crew: Crew
    models: Models
    model: str

    def sample(
        self, requests: Iterable[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        """See `cream.protocols.Sampler`."""
        asked = list(requests)
        ids = [request.prompt_id for request in asked]
        yield from self.crew.ask("sample", self.models, self.model, asked, params, prompt_ids=ids)


@dataclass(frozen=True, slots=True)
class CrewScorer:
    """A `LogpScorer`: all requests of a call are one question."""

    crew: Crew
    models: Models
    model: str

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoredGroup]:
        """See `cream.protocols.LogpScorer`."""
        asked = list(requests)
        ids = [request.prompt_id for request in asked]
        yield from self.crew.ask("score", self.models, self.model, asked, prompt_ids=ids)


def open_crew(
    config: RayCluster,
    choice: EngineChoice,
    checkpoints: Checkpoints,
    *,
    token_budget: int,
    ranks: int = 1,
    run_dir: Path,
    brings_sampler: bool,
) -> OnCrew:
    """The engine of a run on a cluster; starts nothing.

    Raises:
        RecipeError: What the run asks for cannot be done on workers.
    """
    if brings_sampler:
        raise RecipeError(
            "cluster: a sampler given in Python works in this process; set cluster: local"
        )
    if SUBMITTED in os.environ and not run_dir.is_absolute():
        raise RecipeError(
            f"run_dir: {run_dir} is relative, and a submitted job runs in a copied folder that is "
            "deleted; name a folder on a disk that all nodes share"
        )
    crew = Crew(config, checkpoints.device.type, choice.settings.name)
    if crew.gpus > 1 and not isinstance(choice.settings, VllmEngine):
        raise RecipeError(
            f"cluster.gpus_per_worker: {crew.gpus} GPUs share the weights only in vLLM; set "
            "engine: vllm, or gpus_per_worker: 1"
        )
    if crew.gpus == 0 and checkpoints.device.type != "cpu":
        raise RecipeError(
            "cluster.gpus_per_worker: 0 GPUs, and model.device is "
            f"{checkpoints.device.type}; set model.device: cpu, or a number of GPUs"
        )
    return OnCrew(crew, checkpoints, choice.settings, token_budget, ranks)
