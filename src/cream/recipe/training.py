"""How a model is optimised: supervised fine-tuning and the preference stage share one optimiser.

Defaults are those of CREAM's reference code (github.com/Raibows/CREAM at de1d04b) where it states
one. Batch sizes count examples or pairs per *optimiser step*; how they are cut into micro-batches
changes memory and speed, never the result beyond rounding.
"""

from __future__ import annotations

from fractions import Fraction
from typing import Annotated, Generic, Literal, TypeVar

from pydantic import Field

from cream.recipe.base import Section


class OptimiserConfig(Section):
    """AdamW with float32 master weights, warm-up and decay of the learning rate, and clipping."""

    learning_rate: float = Field(gt=0)
    """Peak learning rate, > 0. Reference code: 5e-6 for fine-tuning, 1e-6 for preferences."""
    batch_size: int = Field(default=32, ge=1)
    """Examples or pairs per optimiser step, over all micro-batches. Reference code: 32."""
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    """Course of the learning rate after warm-up; the first two end at 0. Reference code: cosine."""
    warmup_ratio: float = Field(default=0.1, ge=0, lt=1)
    """Share of all steps over which the learning rate rises linearly. Reference code: 0.1."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay, on matrices only (no biases, no norms). Reference code: 0.01."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Global gradient norm above which a step's gradient is scaled down. Reference code: 1.0."""
    adam_beta1: float = Field(default=0.9, ge=0, lt=1)
    """Decay of the first moment."""
    adam_beta2: float = Field(default=0.999, ge=0, lt=1)
    """Decay of the second moment."""
    adam_epsilon: float = Field(default=1e-8, gt=0)
    """Added to the root of the second moment."""


class SftOptimiserConfig(OptimiserConfig):
    """The same with the reference code's learning rate of fine-tuning."""

    learning_rate: float = Field(default=5e-6, gt=0)
    """Peak learning rate, > 0. Reference code: 5e-6."""


class PreferenceOptimiserConfig(OptimiserConfig):
    """The same with the reference code's learning rate of the preference stage."""

    learning_rate: float = Field(default=1e-6, gt=0)
    """Peak learning rate, > 0. Reference code: 1e-6."""


class ComputeConfig(Section):
    """What training costs in memory and time. Beyond rounding it does not change the result."""

    micro_batch_tokens: int = Field(default=4096, ge=1)
    """Most tokens (padding included) in one forward pass; a longer single row goes alone."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of forward and backward; weights, gradients and moments stay float32. ``auto``:
    bfloat16 where the hardware multiplies it natively, else float32."""
    pair_layout: Literal["auto", "shared", "separate"] = "auto"
    """``shared``: chosen and rejected follow their prompt in one row and do not see each other.
    ``separate``: one row each. ``auto``: shared where the model gives the same result."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third slower."""
    ranks: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    """Processes per node that train together, each with a shard of weights, gradients and moments
    (FSDP2). ``auto``: one per GPU of this machine where it has several and the training can be
    divided, else 1."""
    nodes: int = Field(default=1, ge=1)
    """Nodes that train together; more than one needs ``cluster: ray``, which reaches them."""
    save_state_every_minutes: float = Field(default=10.0, ge=0)
    """Minutes between saved optimiser states, from which an interrupted stage goes on; 0 saves
    after every step."""


class LoraConfig(Section):
    """Train low-rank adapters instead of all weights; merged at the end of the stage."""

    rank: int = Field(default=32, ge=1)
    """Rank of the update. Reference code: 32."""
    alpha: float = Field(default=64.0, gt=0)
    """Scale of the update: alpha / rank. Reference code: 64."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout on the adapter's input, the only dropout in Cream. Reference code: 0.1."""
    target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the layers that get an adapter, or every linear layer except the head."""


Optimiser = TypeVar("Optimiser", bound=OptimiserConfig)


class TrainingSettings(Section, Generic[Optimiser]):
    """What every training is told, whatever its objective."""

    epochs: int = Field(ge=1)
    """Passes over the examples."""
    optimiser: Optimiser
    """Optimiser."""
    max_length: int = Field(default=2048, ge=2)
    """Most tokens of a prompt with one of its completions; longer examples are dropped and counted.
    Reference code: 2048."""
    lora: LoraConfig | None = None
    """Adapters, or none to train all weights."""
    compute: ComputeConfig = ComputeConfig()
    """Memory and speed."""


class SftConfig(TrainingSettings[SftOptimiserConfig]):
    """Supervised fine-tuning on the seed examples: M0 to M1."""

    epochs: int = Field(default=5, ge=1)
    """Passes over the examples. Reference code: 5."""
    optimiser: SftOptimiserConfig = SftOptimiserConfig()
    """Optimiser; the loss is the mean over all completion tokens of a step."""


class ReplayConfig(Section):
    """Seed examples of M1 among the pairs, trained on by likelihood: what M1 knew is kept."""

    share: float = Field(gt=0, lt=1)
    """Share of the examples of an epoch that are seed examples, in (0, 1); all of M1's at most.
    Every epoch of every iteration draws others."""
    weight: float = Field(default=1.0, gt=0)
    """Factor on the loss of each of them, > 0."""

    def beside(self, others: int) -> int:
        """How many seed examples make the share beside so many others, rounded down.

        r / (r + others) = share, so a share of 1/2 is as many as there are others.
        """
        share = Fraction(repr(self.share))
        return int(others * share / (1 - share))


class TrainingConfig(TrainingSettings[PreferenceOptimiserConfig]):
    """The preference stage: M_t to M_{t+1}."""

    epochs: int = Field(default=1, ge=1)
    """Passes over the pairs. Reference code: 1."""
    optimiser: PreferenceOptimiserConfig = PreferenceOptimiserConfig()
    """Optimiser; the loss is the mean over the pairs of a step."""
    loss_reference: Literal["policy_at_start", "sft", "seed"] = "policy_at_start"
    """Whose log-probabilities the loss compares with: M_t at the start of the stage (reference
    code), M1, or M0. They come from the score matrix; no model runs for them while training."""
    replay: ReplayConfig | None = None
    """Seed examples among the pairs, or none (the papers' choice). Needs an objective with a
    likelihood term, or ``nll``."""
