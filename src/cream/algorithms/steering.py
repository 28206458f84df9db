"""Rewards that are steered by a few choices of one user: likelihoods, tasks, questions, figures.

No model here. A *choice* is a winner and a loser, both as numbers of completions; a user's choices
are cut into a *context*, which a model may read, and *targets*, which it is judged by, and the two
have no completion in common.

Source: Kobalczyk et al., arXiv 2412.13998, and their code at f50be88. There context and targets are
positions of one list, drawn independently, so that up to three quarters of the "unseen" targets
stand in the context; and the divergence has its arguments exchanged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor
from torch.nn import functional as F

from cream.errors import DataError


@dataclass(frozen=True, slots=True)
class Choices:
    """What one user preferred: choice i is ``winners[i]`` over ``losers[i]``.

    Raises:
        DataError: A completion is preferred to itself.
    """

    winners: Int64[np.ndarray, " choice"]
    losers: Int64[np.ndarray, " choice"]

    def __post_init__(self) -> None:
        if (self.winners == self.losers).any():
            raise DataError("a completion cannot be preferred to itself")

    def __len__(self) -> int:
        return len(self.winners)

    def take(self, places: Sequence[int] | Int64[np.ndarray, " place"]) -> Choices:
        """These choices, in this order."""
        chosen = np.asarray(places, dtype=np.int64)
        return Choices(self.winners[chosen], self.losers[chosen])

    def flipped(self) -> Choices:
        """What a user of the opposite taste would have chosen."""
        return Choices(self.losers, self.winners)

    def joined(self, other: Choices) -> Choices:
        """These choices, then the other ones."""
        return Choices(
            np.concatenate([self.winners, other.winners]),
            np.concatenate([self.losers, other.losers]),
        )

    def apart_from(self, other: Choices) -> Choices:
        """Those choices whose two completions occur in none of the other ones."""
        shown = np.concatenate([other.winners, other.losers])
        met = np.isin(self.winners, shown) | np.isin(self.losers, shown)
        return self.take(np.flatnonzero(~met))


NO_CHOICES = Choices(np.empty(0, np.int64), np.empty(0, np.int64))
"""A user of whom nothing is known."""


@dataclass(frozen=True, slots=True)
class SteeringTask:
    """What a model reads of a user, and what it is judged by."""

    context: Choices
    targets: Choices


def draw_task(
    choices: Choices, generator: np.random.Generator, *, sizes: tuple[int, int], targets: int
) -> SteeringTask:
    """Cut a user's choices into a context of random size and targets without its completions.

    Args:
        choices: At least one.
        generator: Source of the choices.
        sizes: Smallest and largest context, drawn uniformly. A context that leaves no target is
            shortened until it does; the empty one always does.
        targets: Most targets.
    """
    order = generator.permutation(len(choices))
    size = min(int(generator.integers(sizes[0], sizes[1] + 1)), len(choices) - 1)
    while True:
        context = choices.take(order[:size])
        left = choices.take(order[size:]).apart_from(context)
        if len(left):
            return SteeringTask(context, left.take(range(min(targets, len(left)))))
        size -= 1


def halves(choices: Choices, generator: np.random.Generator) -> tuple[Choices, Choices]:
    """Cut a user's choices in two that share no completion, by halving the completions.

    A choice between completions of different halves is in neither.
    """
    shown = np.unique(np.concatenate([choices.winners, choices.losers]))
    first = generator.permutation(shown)[: len(shown) // 2]
    won, lost = np.isin(choices.winners, first), np.isin(choices.losers, first)
    return (
        choices.take(np.flatnonzero(won & lost)),
        choices.take(np.flatnonzero(~won & ~lost)),
    )


def choice_nll(margins: Float[Tensor, "*choice"]) -> Float[Tensor, "*choice"]:
    """``-log sigmoid(r(winner) - r(loser))``, nats: Bradley and Terry."""
    return F.softplus(-margins)


def gaussian_kl(
    mean: Float[Tensor, "*task latent"],
    deviation: Float[Tensor, "*task latent"],
    other_mean: Float[Tensor, "*task latent"],
    other_deviation: Float[Tensor, "*task latent"],
) -> Float[Tensor, "*task"]:
    """KL(first ‖ other) of diagonal Gaussians given by mean and standard deviation, nats.

    The bound of a neural process has the posterior given context *and* targets as the first, the
    one given the context alone as the other; the published code has them exchanged.
    """
    ratio = deviation / other_deviation
    distance = (mean - other_mean) / other_deviation
    return 0.5 * (ratio.square() + distance.square() - 1 - 2 * ratio.log()).sum(-1)


def posterior(
    choice_logps: Float[Tensor, "type choice"], prior: Float[Tensor, " type"] | None = None
) -> Float[Tensor, " type"]:
    """Probability of each type of user given its log-probability of every choice seen.

    Args:
        choice_logps: log P(choice | type), nats; no choice leaves the prior.
        prior: Of each type; uniform if not given.
    """
    start = torch.zeros(len(choice_logps)) if prior is None else prior.log()
    return (start + choice_logps.sum(-1)).softmax(0)


def predicted(
    margins: Float[Tensor, "type pair"], weights: Float[Tensor, " type"]
) -> Float[Tensor, " pair"]:
    """Probability that the first of each pair is preferred: the mean of sigma over types."""
    return weights @ margins.sigmoid()


def disagreement(
    margins: Float[Tensor, "type pair"], weights: Float[Tensor, " type"]
) -> Float[Tensor, " pair"]:
    """Variance of sigma(margin) over types, in [0, 1/4]: how much an answer would tell."""
    chances = margins.sigmoid()
    return weights @ (chances - weights @ chances).square()


def hits(margins: Float64[np.ndarray, " choice"]) -> Float64[np.ndarray, " choice"]:
    """1 where the winner has the larger reward, 0 where the loser has, 1/2 where they are equal."""
    return (margins > 0) + 0.5 * (margins == 0)


def conflicting(users: Sequence[Choices]) -> set[tuple[int, int]]:
    """Pairs (smaller number first) on which two users chose oppositely."""
    chosen = {
        (int(w), int(loser))
        for choices in users
        for w, loser in zip(choices.winners, choices.losers, strict=True)
    }
    return {(a, b) for a, b in chosen if a < b and (b, a) in chosen}
