"""A reward that reads a user's choices: an encoder of the set, and a head that is given its result.

    u_i = f_in([e(winner_i); e(loser_i)])            the order of the two carries the choice
    z   = f_out([mean_i u_i; log(1 + C)]),  z = z0 for C = 0
    r   = f_r([f_e(e(x, y)); z]),           P(a over b | x, C) = sigmoid(r_a - r_b)

e is the standardised embedding of a completion in principal components. A Gaussian form makes f_out
a mean and a standard deviation, softplus of the rest. Beside the steered reward stands a pooled
one, the same without any context: Bradley and Terry over all users.

Source: Kobalczyk et al., arXiv 2412.13998; models.py of their code at f50be88. There the pool is a
sum of self-attention, the empty context is a mean of nothing, and rewards are batch-normalised.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from cream.algorithms.steering import choice_nll, posterior
from cream.errors import ModelError
from cream.models.artifacts import read_artifact, save_artifact
from cream.recipe.load import validate_section
from cream.recipe.steering import SteeringConfig

KIND, FORMAT = "steered reward", 1
SAMPLES = 16
"""Latents drawn for a score of a Gaussian form, where the configuration does not say."""
LEAST_DEVIATION = 1e-4


@dataclass(frozen=True, slots=True)
class Latent:
    """What a context says of its user."""

    mean: Float[Tensor, "task latent"]
    deviation: Float[Tensor, "task latent"] | None
    """Standard deviation; None where the latent is a function of the context."""

    def drawn(
        self, noise: Float[Tensor, "*draw task latent"]
    ) -> Float[Tensor, "*draw task latent"]:
        """A latent for standard normal noise; the mean where there is no deviation."""
        if self.deviation is None:
            return self.mean.expand_as(noise)
        return self.mean + self.deviation * noise


class RewardNet(nn.Module):
    """Encoder and head."""

    def __init__(self, features: int, config: SteeringConfig) -> None:
        super().__init__()
        width = config.latent
        self.gaussian = config.form != "deterministic"
        self.pool = config.pool
        out = 2 * width if self.gaussian else width
        self.item = _layers([2 * features, width, width], config)
        self.set = _layers([width + 1, width, out], config)
        self.empty = nn.Parameter(torch.zeros(out))
        self.body = _layers([features, width, width], config)
        self.head = _layers([2 * width, width, 1], config)

    def encode(
        self,
        winners: Float[Tensor, "task choice feature"],
        losers: Float[Tensor, "task choice feature"],
        mask: Bool[Tensor, "task choice"],
    ) -> Latent:
        """Latent of each context; where `mask` is false there is no choice, whatever stands there.

        Contexts of unequal size are padded, and the order within one does not matter.
        """
        kept = mask[..., None]
        items = self.item(torch.cat([winners, losers], -1).masked_fill(~kept, 0.0))
        count = mask.sum(1, keepdim=True)
        pooled = items.masked_fill(~kept, 0.0).sum(1)
        if self.pool == "mean":
            pooled = pooled / count.clamp(min=1)
        seen = self.set(torch.cat([pooled, count.float().log1p()], -1))
        found = torch.where(count > 0, seen, self.empty)
        if not self.gaussian:
            return Latent(found, None)
        mean, raw = found.chunk(2, -1)
        return Latent(mean, F.softplus(raw) + LEAST_DEVIATION)

    def reward(
        self,
        features: Float[Tensor, "*task completion feature"],
        latent: Float[Tensor, "*task latent"],
    ) -> Float[Tensor, "*task completion"]:
        """Reward of every completion under the latent of its task."""
        body = self.body(features)
        each = latent[..., None, :].expand(*body.shape[:-1], latent.shape[-1])
        return self.head(torch.cat([body, each], -1))[..., 0]


class SteeredReward(nn.Module):
    """Steered and pooled reward, what makes features of embeddings, and the users trained on."""

    mean: Tensor
    projection: Tensor
    population: Tensor

    def __init__(
        self, hidden_size: int, components: int, population: int, config: SteeringConfig
    ) -> None:
        """Build one that is untrained.

        Args:
            hidden_size: Width of an embedding.
            components: Features made of it.
            population: Users whose latents are kept; 0 for a Gaussian form.
            config: Form and widths.
        """
        super().__init__()
        self.config = config
        self.register_buffer("mean", torch.zeros(hidden_size))
        self.register_buffer("projection", torch.zeros(hidden_size, components))
        self.register_buffer("population", torch.zeros(population, config.latent))
        self.steered = RewardNet(components, config)
        self.pooled = RewardNet(components, config.model_copy(update=POOLED))

    def features(
        self, embeddings: Float[Tensor, "*completion hidden"]
    ) -> Float[Tensor, "*completion feature"]:
        """Principal components, each of variance 1 over the completions trained on."""
        return (embeddings - self.mean) @ self.projection

    def told(
        self, winners: Float[Tensor, "choice feature"], losers: Float[Tensor, "choice feature"]
    ) -> Latent:
        """Latent of one context, which may be empty."""
        mask = torch.ones(1, len(winners), dtype=torch.bool)
        return self.steered.encode(winners[None], losers[None], mask)

    def score(
        self, features: Float[Tensor, "completion feature"], latent: Latent
    ) -> Float[Tensor, " completion"]:
        """Reward of completions for one user; of a Gaussian latent the mean over fixed draws."""
        draws = self._draws(latent)
        each = self.steered.reward(features.expand(len(draws), *features.shape), draws)
        return each.mean(0)

    def pooled_score(
        self, features: Float[Tensor, "completion feature"]
    ) -> Float[Tensor, " completion"]:
        """Reward of completions for nobody in particular."""
        return self.pooled.reward(features, self.pooled.empty)

    def types(
        self,
        winners: Float[Tensor, "choice feature"],
        losers: Float[Tensor, "choice feature"],
    ) -> tuple[Float[Tensor, "type latent"], Float[Tensor, " type"]]:
        """Latents that a user of these choices may have, and how probable each is.

        Of a deterministic form the latents of the users trained on, weighed by how probable each
        makes the choices; of a Gaussian form, draws given the choices, of equal weight.
        """
        if self.config.form != "deterministic":
            draws = self._draws(self.told(winners, losers))
            return draws, torch.full((len(draws),), 1 / len(draws))
        logps = -choice_nll(self.margins(winners, losers, self.population))
        return self.population, posterior(logps)

    def margins(
        self,
        first: Float[Tensor, "pair feature"],
        second: Float[Tensor, "pair feature"],
        latents: Float[Tensor, "type latent"],
    ) -> Float[Tensor, "type pair"]:
        """Reward of the first of each pair minus that of the second, under every latent."""
        both = torch.cat([first, second])
        rewards = self.steered.reward(both.expand(len(latents), *both.shape), latents)
        return rewards[:, : len(first)] - rewards[:, len(first) :]

    def _draws(self, latent: Latent) -> Float[Tensor, "draw latent"]:
        if latent.deviation is None:
            return latent.mean
        draws = self.config.samples or SAMPLES
        generator = torch.Generator().manual_seed(self.config.seed)
        return latent.drawn(torch.randn(draws, 1, latent.mean.shape[-1], generator=generator))[:, 0]


POOLED = {"form": "deterministic", "kl_weight": None, "samples": None}
"""What the pooled reward has otherwise than the steered one: it reads no context."""


@dataclass(frozen=True, slots=True)
class FittedReward:
    """A steered reward as its folder holds it."""

    module: SteeredReward
    record: dict[str, Any]
    """``embedding``: what made the embeddings; ``trained``: on what, and with which result."""
    fingerprint: str


def save_steered_reward(
    folder: Path, module: SteeredReward, *, embedding: dict[str, Any], trained: dict[str, Any]
) -> None:
    """Write a trained reward.

    Raises:
        ModelError: A number of it is not finite.
    """
    hidden_size, components = module.projection.shape
    record = {
        "config": module.config.model_dump(mode="json"),
        "shape": [hidden_size, components, len(module.population)],
        "embedding": embedding,
        "trained": trained,
    }
    save_artifact(folder, module, record, kind=KIND, version=FORMAT)


def load_steered_reward(folder: Path) -> FittedReward:
    """Read a trained reward; see `cream.models.artifacts` for what is refused.

    Raises:
        ModelError: It is none, or was changed.
        RunError: Its configuration was changed.
    """
    found = read_artifact(folder, kind=KIND, version=FORMAT, made_by="cream steer fit")
    config = validate_section(found.record["config"], SteeringConfig, source=str(folder))
    hidden_size, components, population = found.record["shape"]
    module = SteeredReward(hidden_size, components, population, config)
    found.fill(module)
    return FittedReward(module.eval(), found.record, found.fingerprint)


def _layers(widths: list[int], config: SteeringConfig) -> nn.Sequential:
    layers: list[nn.Module] = []
    for k, (before, after) in enumerate(pairwise(widths)):
        layers.append(nn.Linear(before, after))
        if k < len(widths) - 2:
            if config.normalisation == "layer":
                layers.append(nn.LayerNorm(after))
            layers.append(nn.ReLU())
    return nn.Sequential(*layers)


def require_same_embedding(fitted: FittedReward, found: dict[str, Any]) -> None:
    """Refuse embeddings of another model or kind than the reward was trained on.

    Raises:
        ModelError: They are.
    """
    wanted = fitted.record["embedding"]
    wrong = [name for name in wanted if wanted[name] != found.get(name)]
    if wrong:
        raise ModelError(
            f"this reward reads embeddings of {wrong[0]} {wanted[wrong[0]]}, and these are of "
            f"{found.get(wrong[0])}; give the model that it was fitted on (--model), or fit again"
        )
