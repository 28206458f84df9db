"""Training of a steered reward on the choices of users, tasks drawn anew in every epoch.

A task is one user: a context of random size, and targets without its completions; the loss is the
mean over users of the mean over their targets. What is drawn is decided by seed, epoch and user, so
no two epochs are alike and a repeated training is the same.

Source: Kobalczyk et al., arXiv 2412.13998. Their code draws the same tasks in every epoch, with one
context size per batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from cream.algorithms.steering import (
    NO_CHOICES,
    Choices,
    SteeringTask,
    choice_nll,
    draw_task,
    gaussian_kl,
)
from cream.errors import DataError, TrainingError
from cream.models.steered_reward import Latent, RewardNet, SteeredReward
from cream.recipe.steering import SteeringConfig
from cream.runs.seeds import derive_seed

LAST_SHARE = 0.1
"""Of the steps, over which the loss that is reported is averaged."""


@dataclass(frozen=True, slots=True)
class SteeringFit:
    """A trained reward and how its training went."""

    reward: SteeredReward
    loss: float
    """Mean loss of the last tenth of the steps, nats per choice."""
    pooled_loss: float
    """The same of the pooled reward."""


def fit_steering(
    embeddings: Float[np.ndarray, "completion hidden"],
    users: Sequence[Choices],
    config: SteeringConfig,
) -> SteeringFit:
    """Train a steered and a pooled reward.

    Args:
        embeddings: Of every completion, by number.
        users: Choices of each user, at least one per user and two users.
        config: Form, widths, training.

    Raises:
        DataError: Fewer than two users, or completions whose embeddings are all alike.
        TrainingError: A loss is not finite.
    """
    if len(users) < 2:
        raise DataError(
            "one user alone cannot be told from others; give choices of two users or more, or "
            "train a plain reward model"
        )
    shown = np.unique(np.concatenate([[*u.winners, *u.losers] for u in users]))
    rows = torch.from_numpy(np.asarray(embeddings, dtype=np.float32))
    mean, projection = principal_components(rows[shown], config.components)
    kept = len(users) if config.form == "deterministic" else 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "steer", "weights"))
        reward = SteeredReward(len(mean), projection.shape[1], kept, config)
    reward.mean.copy_(mean)
    reward.projection.copy_(projection)
    features = reward.features(rows)
    sizes = (config.context_min, config.context_max)
    loss = _train(reward.steered, features, users, config, sizes)
    pooled_loss = _train(reward.pooled, features, users, config, (0, 0))
    if kept:
        tasks = [_whole(u, config, k) for k, u in enumerate(users)]
        with torch.no_grad():
            reward.population.copy_(_encode(reward.steered, features, tasks).mean)
    return SteeringFit(reward.eval(), loss, pooled_loss)


def principal_components(
    rows: Float[Tensor, "row hidden"], most: int
) -> tuple[Float[Tensor, " hidden"], Float[Tensor, "hidden feature"]]:
    """Mean, and the matrix whose products with centred rows have variance 1 and no correlation.

    As many as asked for, or as there are directions in which the rows differ. Columns are
    standardised before, so that a few large ones do not decide.

    Raises:
        DataError: All rows are alike.
    """
    wide = rows.double()
    mean, deviation = wide.mean(0), wide.std(0, correction=0)
    scale = torch.where(deviation > 0, deviation, 1.0)
    centred = (wide - mean) / scale
    variance, vectors = torch.linalg.eigh(centred.T @ centred / len(rows))
    variance, vectors = variance.flip(0), vectors.flip(1)
    there = int((variance > 1e-9 * variance[0].clamp(min=1e-12)).sum())
    if not deviation.any() or there == 0:
        raise DataError("all completions have the same embedding, so no reward can tell them apart")
    kept = min(most, there, len(rows) - 1)
    matrix = vectors[:, :kept] / variance[:kept].sqrt() / scale[:, None]
    return mean.float(), matrix.float()


def _train(
    net: RewardNet,
    features: Float[Tensor, "completion feature"],
    users: Sequence[Choices],
    config: SteeringConfig,
    sizes: tuple[int, int],
) -> float:
    """Train in place; the mean loss of the last steps."""
    matrices = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    optimiser = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": config.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=config.learning_rate,
    )
    net.train()
    losses = []
    for step in range(config.steps):
        first = step * config.users_per_step
        tasks = [
            _task(users, config, sizes, item)
            for item in range(first, first + config.users_per_step)
        ]
        loss = task_loss(net, features, tasks, config, step)
        if not bool(torch.isfinite(loss)):
            raise TrainingError(
                f"step {step + 1}: the loss is not finite; lower learning_rate, or look for "
                "embeddings that are far from all others"
            )
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), config.gradient_clip)
        optimiser.step()
        losses.append(loss.item())
    net.eval()
    last = losses[-max(1, round(LAST_SHARE * len(losses))) :]
    return sum(last) / len(last)


def _task(
    users: Sequence[Choices], config: SteeringConfig, sizes: tuple[int, int], item: int
) -> SteeringTask:
    """Task `item` of the stream: every epoch goes over all users, in an order of its own."""
    epoch, place = divmod(item, len(users))
    order = np.random.default_rng(derive_seed(config.seed, "steer", "order", epoch))
    user = int(order.permutation(len(users))[place])
    draw = np.random.default_rng(derive_seed(config.seed, "steer", epoch, user))
    return draw_task(users[user], draw, sizes=sizes, targets=config.targets)


def _whole(user: Choices, config: SteeringConfig, number: int) -> SteeringTask:
    """As much of a user as a context holds."""
    draw = np.random.default_rng(derive_seed(config.seed, "steer", "population", number))
    return SteeringTask(user.take(draw.permutation(len(user))[: config.context_max]), NO_CHOICES)


def task_loss(
    net: RewardNet,
    features: Float[Tensor, "completion feature"],
    tasks: Sequence[SteeringTask],
    config: SteeringConfig,
    step: int,
) -> Float[Tensor, ""]:
    """Loss of the tasks of a step in the form of the configuration, nats per choice."""
    context = _encode(net, features, tasks)
    latent, divergence = context.mean, None
    if net.gaussian:
        both = [SteeringTask(t.context.joined(t.targets), t.targets) for t in tasks]
        whole = _encode(net, features, both)
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "steer", "noise", step))
        noise = torch.randn(context.mean.shape, generator=generator)
        assert whole.deviation is not None
        assert context.deviation is not None
        told, given = (whole.mean, whole.deviation), (context.mean, context.deviation)
        if config.form == "elbo":
            latent, divergence = whole.drawn(noise), gaussian_kl(*told, *given)
        else:
            latent, divergence = context.drawn(noise), gaussian_kl(*given, *told)
    winners, losers, mask = _padded([t.targets for t in tasks])
    margins = net.reward(features[winners], latent) - net.reward(features[losers], latent)
    each = choice_nll(margins).masked_fill(~mask, 0.0).sum(1) / mask.sum(1)
    if divergence is None:
        return each.mean()
    weight = config.kl_weight or 1 / config.targets
    return (each + weight * divergence).mean()


def _encode(
    net: RewardNet, features: Float[Tensor, "completion feature"], tasks: Sequence[SteeringTask]
) -> Latent:
    winners, losers, mask = _padded([task.context for task in tasks])
    return net.encode(features[winners], features[losers], mask)


def _padded(
    rows: Sequence[Choices],
) -> tuple[Int64[Tensor, "task choice"], Int64[Tensor, "task choice"], Bool[Tensor, "task choice"]]:
    """Winners, losers, and where there is a choice; completion 0 stands where there is none."""
    width = max(map(len, rows))
    sides = torch.zeros(2, len(rows), width, dtype=torch.int64)
    for k, row in enumerate(rows):
        sides[0, k, : len(row)] = torch.from_numpy(row.winners)
        sides[1, k, : len(row)] = torch.from_numpy(row.losers)
    lengths = torch.tensor([len(row) for row in rows])
    return sides[0], sides[1], torch.arange(width) < lengths[:, None]
