"""What a training reports: counts, metrics per step, the route taken, and what to worry about."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import torch

from cream.algorithms.objective import Objective
from cream.recipe.training import TrainingSettings
from cream.types import Example, Tally


@dataclass(frozen=True, slots=True)
class TrainingSummary:
    """The outcome of one stage of training."""

    steps: int
    """Optimiser steps of the whole training, restored ones included."""
    tally: Tally
    """What became of the items given."""
    metrics: tuple[Mapping[str, float], ...]
    """Metrics of each step, in order."""
    real_tokens: int
    """Tokens run through the model by this call, padding excluded."""
    seconds: float
    """Wall-clock of the steps of this call."""
    precision: str
    """Dtype of forward and backward."""
    head: Literal["hidden", "logits"]
    """Whether the head ran on completion tokens alone, or the model gave all logits."""
    layout: Literal["shared", "separate"]
    """Whether sequences of one prompt shared a row."""
    learning_rate_scale: float = 1.0
    """Factor on the learning rate; 0 if the stage was skipped."""
    skipped: str | None = None
    """Why nothing was trained, or None."""
    warnings: tuple[str, ...] = ()
    """Observations a user should see, each one sentence."""


def fingerprint_of(
    examples: Sequence[Example],
    objective: Objective,
    settings: TrainingSettings,
    *,
    seed: int,
    dtype: torch.dtype,
    learning_rate_scale: float = 1.0,
) -> str:
    """Hash what the steps depend on, but for the model's weights at the start.

    How often a state is saved is left out: it may change between two attempts.
    """
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(json.dumps(asdict(example), sort_keys=True).encode())
    digest.update(f"{objective.name} {objective.fingerprint}".encode())
    fields = settings.model_dump_json(exclude={"compute": {"save_state_every_minutes"}})
    digest.update(fields.encode())
    digest.update(f"{seed} {dtype} {learning_rate_scale!r}".encode())
    return digest.hexdigest()
