"""The engines, and which of them a run uses and why.

An engine samples from and scores under the models of a run (`cream.protocols.Engine`). Which one is
decided when a run is opened, from the recipe, the device, what is installed and what the run was
begun with, and kept for as long as the run lasts; that starts nothing but a Python that is asked
for vLLM's version. Log-probabilities come from torch whatever samples: vLLM's are of its sampling
distribution, in its own arithmetic, and C compares models in one arithmetic.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import assert_never

import torch

from cream.engines.checkpoints import Checkpoints
from cream.engines.rank_scorer import RankScorer
from cream.engines.sampler import TorchSampler
from cream.engines.scorer import TorchScorer
from cream.engines.vllm_sampler import SCRIPT, VllmSampler
from cream.engines.vllm_worker import installed_version
from cream.errors import DependencyError, RecipeError, RunError
from cream.models.loading import refuse_not_finite_files
from cream.protocols import Capability, Engine, LogpScorer, OwnSampler, Sampler
from cream.recipe.engine import AnyEngine, AutoEngine, TorchEngine, VllmEngine

BY_NAME = {"torch": TorchEngine, "vllm": VllmEngine}
VERSION_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class EngineChoice:
    """The engine of a run."""

    settings: TorchEngine | VllmEngine
    reason: str
    """A phrase without a full stop, e.g. ``the recipe says so``."""

    def __str__(self) -> str:
        return f"{self.settings.name} ({self.reason})"

    @property
    def record(self) -> dict[str, str]:
        """What a run remembers, as JSON values."""
        return {"engine": self.settings.name, "engine_reason": self.reason}


@dataclass(frozen=True, slots=True)
class OnTorch:
    """Samples and scores with transformers' models in this process."""

    checkpoints: Checkpoints
    token_budget: int = 4096
    """Tokens per forward of scoring."""
    ranks: int = 1
    """Processes that score together, each with a shard of the weights; 1: this one does."""
    name: str = "torch"
    capabilities: frozenset[Capability] = frozenset(Capability) - {Capability.LORA}

    def sampler(self, model: str) -> TorchSampler:
        """See `cream.protocols.Engine`."""
        make = partial(TorchSampler, say=self.checkpoints.say)
        return self.checkpoints.made_of(model, "sampler", make)

    def scorer(self, model: str) -> LogpScorer:
        """See `cream.protocols.Engine`."""
        own = self.checkpoints
        if self.ranks > 1:
            return own.hold((model, "ranks"), lambda: self._on_ranks(model), RankScorer.close)
        make = partial(TorchScorer, token_budget=self.token_budget, say=own.say)
        return own.made_of(model, "scorer", make)

    def _on_ranks(self, model: str) -> RankScorer:
        own = self.checkpoints
        return RankScorer(
            own.existing(model),
            self.ranks,
            device=own.device.type,
            dtype=own.compute_dtype,
            token_budget=self.token_budget,
            context_length=own.context_length,
            trust_remote_code=own.trust_remote_code,
            say=own.say,
        )


@dataclass(frozen=True, slots=True)
class OnVllm:
    """Samples with vLLM in a process of its own; scores on torch."""

    torch: OnTorch
    settings: VllmEngine
    gpus: int = 1
    """GPUs that share the weights."""
    name: str = "vllm"
    capabilities: frozenset[Capability] = frozenset({Capability.LORA})

    def sampler(self, model: str) -> VllmSampler:
        """See `cream.protocols.Engine`."""
        checkpoints = self.torch.checkpoints

        def make() -> VllmSampler:
            folder = checkpoints.existing(model)
            refuse_not_finite_files(folder)  # vLLM would sample nonsense from them
            return VllmSampler(
                folder,
                self.settings,
                device=checkpoints.device,
                dtype=checkpoints.compute_dtype,
                trust_remote_code=checkpoints.trust_remote_code,
                gpus=self.gpus,
            )

        return checkpoints.hold((model, self.name), make, VllmSampler.close)

    def scorer(self, model: str) -> LogpScorer:
        """See `cream.protocols.Engine`."""
        return self.torch.scorer(model)


@dataclass(frozen=True, slots=True)
class OnOwnSampler:
    """Samples with what the user brought; scores on torch."""

    torch: OnTorch
    own: OwnSampler
    name: str = "own"
    capabilities: frozenset[Capability] = frozenset()

    def sampler(self, model: str) -> Sampler:
        """See `cream.protocols.Engine`."""
        return self.own.of(self.torch.checkpoints.for_inference(model))

    def scorer(self, model: str) -> LogpScorer:
        """See `cream.protocols.Engine`."""
        return self.torch.scorer(model)


def open_engine(
    choice: EngineChoice,
    checkpoints: Checkpoints,
    *,
    token_budget: int = 4096,
    own: OwnSampler | None = None,
    gpus: int = 1,
    ranks: int = 1,
) -> Engine:
    """The engine that was chosen, in this process; the user's sampler before any other.

    On the workers of a cluster: `cream.engines.crew`.
    """
    torch_engine = OnTorch(checkpoints, token_budget, ranks)
    if own is not None:
        return OnOwnSampler(torch_engine, own)
    if isinstance(choice.settings, VllmEngine):
        return OnVllm(torch_engine, choice.settings, max(1, gpus))
    return torch_engine


def choose_engine(
    config: AnyEngine, device: torch.device, begun_with: Mapping[str, str] | None = None
) -> EngineChoice:
    """Decide which engine samples.

    Args:
        config: The recipe's ``engine`` section.
        device: Where the model runs.
        begun_with: `EngineChoice.record` of the run's first opening. ``auto`` follows it whatever
            has been installed or removed since.

    Raises:
        DependencyError: vLLM is to sample and its environment has none.
        RecipeError: vLLM does not run on this device.
        RunError: The recipe names another engine than the run was begun with.
    """
    begun = None if begun_with is None else begun_with["engine"]
    match config:
        case AutoEngine():
            choice = _automatic(device, begun)
        case TorchEngine() | VllmEngine():
            if begun not in (None, config.name):
                raise RunError(
                    f"this run was begun with engine {begun}, the recipe says {config.name}, which "
                    f"would sample other completions; set engine: {begun}, or run_dir to a new "
                    "folder"
                )
            choice = EngineChoice(config, "the recipe says so")
        case _:
            assert_never(config)
    if isinstance(choice.settings, VllmEngine):
        _require_vllm(choice.settings, device)
    return choice if begun_with is None else replace(choice, reason=begun_with["engine_reason"])


def _automatic(device: torch.device, begun: str | None) -> EngineChoice:
    if begun is not None:
        return EngineChoice(BY_NAME[begun](), "auto, and the run was begun so")
    if device.type != "cuda":
        return EngineChoice(TorchEngine(), f"auto, and the model runs on {device.type}")
    version = installed_version()
    if version is None:
        return EngineChoice(TorchEngine(), "auto, and vLLM is not installed beside Cream")
    return EngineChoice(VllmEngine(), f"auto, a GPU, and vLLM {version} beside Cream")


def _require_vllm(settings: VllmEngine, device: torch.device) -> None:
    if device.type not in ("cpu", "cuda"):
        raise RecipeError(
            f"engine: vllm runs on a CPU or a CUDA GPU, and model.device is {device.type}; set "
            "engine: torch"
        )
    version = installed_version() if settings.python is None else _version_of(settings.python)
    if version is None:
        where = "Cream's environment" if settings.python is None else settings.python
        raise DependencyError(
            f"engine: vllm needs vLLM, which {where} does not have; install it there (extra "
            "`vllm`), name the Python of an environment that has it in engine.python, or set "
            "engine: torch"
        )


def _version_of(python: str) -> str | None:
    """Version of vLLM in the environment of a Python; None without one."""
    try:
        done = subprocess.run(  # noqa: S603 - the user's own Python
            [os.path.expanduser(python), "-P", str(SCRIPT), "--version"],
            capture_output=True,
            text=True,
            timeout=VERSION_SECONDS,
            check=True,
        )
        return json.loads(done.stdout)["version"]
    except subprocess.CalledProcessError as error:
        last = (error.stderr.strip().splitlines() or ["no message"])[-1]
        problem = f"failed ({last}); it must be Python 3.11 or newer"
    except subprocess.TimeoutExpired:
        problem = f"did not answer within {VERSION_SECONDS:g} s"
    except (OSError, ValueError, TypeError, KeyError) as error:
        problem = f"is no Python ({error})"
    raise DependencyError(f"engine.python: {python} {problem}. Name another, or set engine: torch")
