"""``cream steer eval``: how well a steered reward reads users that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float32, Float64

from cream.algorithms.statistics import Absent, Interval
from cream.algorithms.steering import Choices
from cream.algorithms.steering_figures import ArmFigures, steering_figures
from cream.data.preferences import Preferences, responses
from cream.errors import DataError
from cream.loop.context import ExternalSteering
from cream.models.steered_reward import SteeredReward
from cream.programs.embeddings import embed_for, hashed_user, numbered_choices
from cream.protocols import Progress
from cream.records import Count, Record
from cream.runs.files import write_json
from cream.types import Tally

FIGURES = "figures.json"


class Estimate(Record):
    """A mean over users with its 95 % bootstrap interval, or why there is none."""

    mean: float | None
    low: float | None
    high: float | None
    n: Count
    """Users."""
    reason: str | None


class ContextFigures(Record):
    """Accuracy on unseen choices at one size of the context."""

    size: Count
    accuracy: dict[str, Estimate]
    """Of ``own`` context, that of an ``other`` user, the own one ``flipped``, ``none``, and of the
    ``pooled`` reward that reads no context."""
    gain: dict[str, Estimate]
    """Own minus each, over the same users."""
    steering_index: Estimate
    """Accuracy on targets on which two users chose oppositely, minus 1/2."""
    targets: Count
    """Choices judged."""


class SteeringEvaluation(Record):
    """How well a steered reward reads users that it was not trained on."""

    folder: str
    users: Count
    """Measured."""
    trained_on: Count
    """Users of the file left out because the reward was trained on them."""
    rows: Tally
    unread: Count
    """Choices left out, since a completion of theirs has no embedding."""
    sizes: list[ContextFigures]


def evaluate_reward(
    reward: ExternalSteering,
    pairs: Preferences,
    out: Path,
    *,
    sizes: Sequence[int],
    seed: int,
    progress: Progress,
) -> SteeringEvaluation:
    """Measure a reward on users that it was not trained on.

    Args:
        reward: What is measured.
        pairs: Choices of users.
        out: Folder to write.
        sizes: Sizes of the context.
        seed: Of halves, partners and intervals.
        progress: Shows what happens.

    Raises:
        DataError: The reward was trained on every user of the file.
        RunError: The folder holds embeddings of something else.
    """
    module, trained = reward.fitted.module, set(reward.fitted.record["trained"]["users"])
    unseen = [user for user in pairs.users if hashed_user(user.user_id) not in trained]
    if not unseen:
        raise DataError(
            f"the reward was trained on every user of {pairs.name}; give choices of others"
        )
    with closing(reward.checkpoints):
        found = embed_for(reward, list(responses(unseen)), out, progress)
    told = numbered_choices(unseen, found)
    rewards, pooled = reward_functions(module, found.vectors)
    figures = steering_figures(told.users, rewards, pooled, sizes=sizes, seed=seed)
    result = SteeringEvaluation(
        folder=str(out),
        users=len(unseen),
        trained_on=len(pairs.users) - len(unseen),
        rows=pairs.tally,
        unread=told.tally.total - told.tally.parts["trained"],
        sizes=[_figures_record(one) for one in figures],
    )
    write_json(out / FIGURES, result.as_json())
    return result


def reward_functions(
    module: SteeredReward, vectors: Float32[np.ndarray, "completion hidden"]
) -> tuple[Callable[[Choices], Float64[np.ndarray, " completion"]], Float64[np.ndarray, " c"]]:
    """Rewards of all completions for the user of a context, and of the pooled reward."""
    with torch.no_grad():
        features = module.features(torch.from_numpy(vectors))
        pooled = module.pooled_score(features).double().numpy()

    @torch.no_grad()
    def rewards(context: Choices) -> Float64[np.ndarray, " completion"]:
        latent = module.told(features[context.winners], features[context.losers])
        return module.score(features, latent).double().numpy()

    return rewards, pooled


def _figures_record(one: ArmFigures) -> ContextFigures:
    return ContextFigures(
        size=one.size,
        accuracy={arm: _estimate(found) for arm, found in one.accuracy.items()},
        gain={arm: _estimate(found) for arm, found in one.gain.items()},
        steering_index=_estimate(one.steering_index),
        targets=one.targets,
    )


def _estimate(found: Interval | Absent) -> Estimate:
    if isinstance(found, Absent):
        return Estimate(mean=None, low=None, high=None, n=0, reason=str(found))
    return Estimate(
        mean=found.estimate, low=found.low, high=found.high, n=found.num_items, reason=None
    )
