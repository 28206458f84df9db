"""How a reward that is steered by a user's choices is built and trained (`cream steer fit`).

Source: Kobalczyk et al., arXiv 2412.13998. Theirs: sum over the context, batch normalisation,
latent 256, batch 64, learning rate 1e-4.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cream.recipe.base import Section
from cream.recipe.model import ModelConfig


class SteeringConfig(Section):
    """Encoder of a user's choices, and the reward that reads it."""

    model: ModelConfig = ModelConfig()
    """Which model's hidden states are read."""
    token_budget: int = Field(default=4096, ge=64)
    """Tokens in one forward pass of the model, padding included; a longer text goes alone."""
    form: Literal["deterministic", "elbo", "reference"] = "deterministic"
    """``deterministic``: the latent is a function of the context. ``elbo``: a Gaussian, trained by
    the bound of a neural process: drawn given context and targets, KL from there to the context
    alone. ``reference``: the published code: drawn given the context, KL exchanged."""
    kl_weight: float | None = Field(default=None, gt=0)
    """Factor on the divergence; null is 1 / ``targets``, with which a mean over targets makes it
    the bound itself. Not read by ``deterministic``."""
    samples: int | None = Field(default=None, ge=2)
    """Latents drawn for a score of a Gaussian form; null is 16. Not read by ``deterministic``."""
    pool: Literal["mean", "sum"] = "mean"
    """How the choices of a context become one vector. ``sum`` (published) grows with their number,
    which so leaks into the reward; with ``mean`` the number is a feature, log(1 + C)."""
    normalisation: Literal["layer", "none"] = "none"
    """Of hidden layers. Batch normalisation is not offered: a reward would depend on its batch."""
    components: int = Field(default=64, ge=1)
    """Most principal components of the embeddings that are read."""
    latent: int = Field(default=64, ge=1)
    """Width of the latent and of hidden layers."""
    context_min: int = Field(default=0, ge=0)
    """Smallest context in training."""
    context_max: int = Field(default=10, ge=1)
    """Largest context in training; a longer one is warned about when it is scored with."""
    targets: int = Field(default=20, ge=1)
    """Most targets of a task."""
    users_per_step: int = Field(default=64, ge=1)
    """Tasks of a step, one per user."""
    steps: int = Field(default=300, ge=1)
    """Updates by the optimiser."""
    learning_rate: float = Field(default=1e-3, gt=0)
    """Of AdamW, constant."""
    weight_decay: float = Field(default=0.01, ge=0)
    """Decoupled weight decay, on matrices."""
    gradient_clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    seed: int = Field(default=0, ge=0)
    """Decides weights, order of users and every task."""

    @model_validator(mode="after")
    def _sizes_and_form_fit(self) -> SteeringConfig:
        if self.context_min > self.context_max:
            raise ValueError(
                f"context_min {self.context_min} is above context_max {self.context_max}"
            )
        unread = [n for n in ("kl_weight", "samples") if getattr(self, n) is not None]
        if self.form == "deterministic" and unread:
            raise ValueError(
                f"{', '.join(unread)} would be ignored: the deterministic form has no "
                "distribution. Remove it, or set form: elbo"
            )
        return self
