"""The ``engine`` section of a recipe: what draws completions for sampling and evaluation.

Scoring and training are torch's whatever stands here. Which engine a run gets, and why, is decided
when it is opened (`cream.engines.engine`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from cream.recipe.base import Section, usual
from cream.recipe.model import NonBlank


class AutoEngine(Section):
    """vLLM on a CUDA device where it is installed beside Cream, torch everywhere else."""

    name: Literal["auto"] = "auto"


class TorchEngine(Section):
    """Cream's own sampler: any causal language model, CPU or one GPU, nothing to install."""

    name: Literal["torch"] = "torch"


class VllmEngine(Section):
    """vLLM in a process of its own, which ends before anything else needs the memory.

    None of the settings but the name decides what is sampled beyond floating-point order, so they
    may change between two attempts at a run.
    """

    name: Literal["vllm"] = "vllm"
    python: NonBlank | None = None
    """Python of an environment that has vLLM, a path or a command; by default Cream's own. There
    it needs neither Cream nor the versions that Cream needs."""
    max_rows: int = Field(default=256, ge=1)
    """Completions decoded at a time."""
    memory_share: float | None = Field(default=None, gt=0.0, le=1.0)
    """Share of the device's memory (on a CPU: of the machine's) that vLLM may take for weights and
    caches. Null: 0.9 of a GPU, 0.25 of a machine without one."""
    execution: Literal["auto", "eager", "compiled"] = "auto"
    """``eager`` starts in seconds; ``compiled`` (and CUDA graphs) takes up to minutes to start and
    samples faster. ``auto`` is eager on a CPU, where compiling needs a C++ compiler."""
    timeout_seconds: float = Field(default=1800.0, gt=0.0)
    """How long the process may give no sign of life, while it loads or between two tokens, before
    it is ended and the run stops with an error."""


AnyEngine = AutoEngine | TorchEngine | VllmEngine
EngineConfig = Annotated[
    Annotated[AnyEngine, Field(discriminator="name")],
    usual("name", "auto"),
]
"""``engine: vllm`` is short for ``engine: {name: vllm}``."""
