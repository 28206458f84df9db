"""A recipe: one file that says everything a run does. Complete once loaded, never edited after.

Sections live in their own modules; this one holds what belongs to the run as a whole and the
sampling, scoring and evaluation stages.
"""

from __future__ import annotations

from typing import Literal, Protocol, runtime_checkable

from pydantic import Field, model_validator

from cream.recipe.base import Section
from cream.recipe.cluster import ClusterConfig, LocalCluster
from cream.recipe.columns import SELF_CERTAINTY, VERDICT
from cream.recipe.data import DataConfig
from cream.recipe.engine import AutoEngine, EngineConfig
from cream.recipe.methods import MethodConfig
from cream.recipe.methods.cream import CreamMethod
from cream.recipe.model import ModelConfig
from cream.recipe.parts import MethodParts
from cream.recipe.scorers import VerdictConfig
from cream.recipe.trackers import Trackers
from cream.recipe.training import SftConfig, TrainingConfig
from cream.recipe.witness import CalibrationConfig, Witnesses


@runtime_checkable
class AnyMethod(Protocol):
    """A method of a recipe, or one composed in Python."""

    def parts(self, t: int) -> MethodParts:
        """Parts of iteration t."""
        ...


class SamplingConfig(Section):
    """How the policy answers the prompts of an iteration."""

    num_completions: int = Field(default=5, ge=2)
    """Completions per prompt (N). The paper's code uses 5."""
    temperature: float = Field(default=0.8, gt=0.0)
    """Softmax temperature. The paper's code uses 0.8."""
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    """Nucleus mass. The paper's code uses 0.95."""
    max_completion_tokens: int = Field(default=768, ge=1)
    """Tokens after which a completion is cut off. The paper's code uses 768."""
    prompts_per_shard: int = Field(default=128, ge=1)
    """Prompts sampled, scored and written together: what an interruption can lose."""


class ScoringConfig(Section):
    """How log-probabilities of completions are computed."""

    token_budget: int = Field(default=4096, ge=64)
    """Tokens in one forward pass, padding included."""
    ranks: int = Field(default=1, ge=1, exclude_if=lambda value: value == 1)
    """Processes of this machine that score together, each with a shard of the weights and, on a
    GPU, one of its own: for a model above one GPU. 1: one process, or each worker, has it whole."""
    report_consistency: bool = True
    """Also score under M_{t-1} and report C for methods that do not use it (``srlm``,
    ``oracle``), as the paper does for its baseline."""
    verdicts: VerdictConfig | None = Field(default=None, exclude_if=lambda value: value is None)
    """Also ask a model of the run which of two completions is better: a witness in every report,
    with its label mass and its bias for a place. Or none."""
    self_certainty: bool = Field(default=False, exclude_if=lambda value: not value)
    """Also measure how certain M_t is of each completion's tokens (arXiv 2502.18581): a witness in
    every report, and a signal of ``cream trust``. One more pass over the samples."""

    @property
    def columns(self) -> list[str]:
        """Score columns that are measured for every method."""
        verdicts = [] if self.verdicts is None else [VERDICT]
        return [*verdicts, *([SELF_CERTAINTY] if self.self_certainty else [])]


class EvaluationConfig(Section):
    """How each M_t is measured on the test prompts."""

    max_completion_tokens: int = Field(default=768, ge=1)
    """Tokens after which an answer is cut off."""
    num_samples: int = Field(default=4, ge=0)
    """Samples per test prompt for mean@k and pass@k, beside the greedy answer; 0 for none."""
    temperature: float = Field(default=1.0, gt=0.0)
    """Temperature of those samples."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    """Nucleus mass of those samples."""
    prompts_per_shard: int = Field(default=128, ge=1)
    """Prompts answered and written together: what an interruption can lose."""


class Recipe(Section):
    """A whole run: data, model, method, and every setting of every stage."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run; letters, digits, dot, dash and underscore."""
    run_dir: str = ""
    """Folder of the run, relative to where the command is given. Empty: ``runs/<name>``."""
    seed: int = Field(default=0, ge=0)
    """Every random choice derives from this number and the name of what it decides."""
    iterations: int = Field(ge=1)
    """T: how many times M_t -> M_{t+1} after supervised fine-tuning. May be raised later."""
    method: MethodConfig = CreamMethod()
    """How pairs are made and weighted: a method by name, or with its options."""
    model: ModelConfig = ModelConfig()
    engine: EngineConfig = AutoEngine()
    """What samples: ``auto``, ``torch`` or ``vllm``, by name or with options. Which one a run got
    is decided when it is first opened, and stays."""
    cluster: ClusterConfig = LocalCluster()
    """Where completions are drawn and scored: ``local`` or ``ray``, by name or with options. May be
    changed between two attempts."""
    data: DataConfig
    sft: SftConfig = SftConfig()
    witnesses: Witnesses = Field(default_factory=dict)
    """Models beside M1, by name, each fine-tuned on its own part of the seed examples. A method
    that asks one names it."""
    calibration: CalibrationConfig | None = None
    """Seed examples held out to calibrate pair-level agreement, or none."""
    sampling: SamplingConfig = SamplingConfig()
    scoring: ScoringConfig = ScoringConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    trackers: Trackers = Field(default_factory=list)
    """Where the metrics go beside the run directory: tensorboard, trackio, wandb or mlflow, by name
    or with options. None of them decides a result; may be changed later."""
    keep_checkpoints: Literal["all", "last"] = "all"
    """``all`` keeps every M_t; ``last`` removes an M_t once no later stage needs it."""

    @model_validator(mode="after")
    def _seed_makes_m1(self) -> Recipe:
        if self.data.seed is None:
            raise ValueError("data.seed is needed: M1 is M0 fine-tuned on it")
        return self

    def parts(self, t: int, method: AnyMethod | None = None) -> MethodParts:
        """Parts of iteration t of a method, with what the recipe asks for beside it.

        Args:
            t: Iteration, >= 1.
            method: Composed in Python; None: the recipe's.
        """
        parts = (method or self.method).parts(t)
        asked = self.scoring.columns
        return parts.model_copy(update={"asked": asked}) if asked else parts

    @property
    def folder(self) -> str:
        """Folder of the run as written in the recipe, or the default made from its name."""
        return self.run_dir or f"runs/{self.name}"
