"""One training of a stage, in this process or on ranks; its model is saved either way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch

from cream.algorithms.consistency import StageScale
from cream.algorithms.objective import Objective
from cream.loop.card import model_card
from cream.loop.context import Context
from cream.recipe.training import TrainingSettings
from cream.runs.files import write_json
from cream.runs.store import Stage
from cream.training.launch import (
    Places,
    RankedTraining,
    ThisMachine,
    number_of_ranks,
    train_in_ranks,
)
from cream.training.loop import OnStep
from cream.training.nodes import SeveralNodes
from cream.training.rank import Described
from cream.training.train import TrainingSummary, train
from cream.types import Example

STATE = "state"
"""Folder of the resumable training state, removed when the stage is finished."""

OBJECTIVE = "objective.safetensors"
"""The objective's own modules, where it has any."""

RANKS = "ranks"
"""Folder of what the ranks of a training are told and tell, removed when it is over."""

WORLD = "world.json"
"""How many ranks a model was trained on, where there were several."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a training is given."""

    examples: list[Example]
    only_in: Mapping[str, int] = field(default_factory=dict)
    """Epoch of those that are seen in one only, by id."""
    replayed: int | None = None
    """Seed examples among them; None where none were to be."""


@dataclass(frozen=True, slots=True)
class Training:
    """What a stage wants trained."""

    section: str
    """Section of the recipe with its settings."""
    settings: TrainingSettings
    objective: Objective
    described: Described | None
    """What makes the objective elsewhere; None for fine-tuning's, or a user's own."""
    given: Callable[[], Given]
    seed: int
    scale: Callable[[], StageScale] = StageScale

    @property
    def divisible(self) -> bool:
        """Whether ranks can be told of it."""
        return self.described is not None or self.section == "sft"


def trained(
    context: Context, stage: Stage, training: Training, on_step: OnStep
) -> tuple[TrainingSummary, int | None]:
    """Train the model that a stage starts from and save it as its result.

    Returns:
        The summary, and how many seed examples were replayed (None where none were to be).
    """
    own, spec, scale = context.checkpoints, stage.spec, training.scale()
    compute = training.settings.compute
    ranks = number_of_ranks(
        compute,
        own.device,
        divisible=training.divisible,
        reaches_nodes=context.crew is not None,
    )
    given = training.given()
    if ranks > 1 and scale.skipped is None:
        return _on_ranks(context, stage, training, given, scale, ranks, on_step), given.replayed
    model = own.for_training(str(spec.model))
    summary = train(
        model,
        given.examples,
        training.objective,
        training.settings,
        seed=training.seed,
        only_in=given.only_in,
        scale=scale,
        state_dir=stage.folder / STATE,
        objective_file=stage.folder / OBJECTIVE,
        on_step=on_step,
        say=context.progress.note,
    )
    own.save(model, str(spec.result), model_card(spec, context.recipe, own.seed_name))
    return summary, given.replayed


def _on_ranks(
    context: Context,
    stage: Stage,
    training: Training,
    given: Given,
    scale: StageScale,
    ranks: int,
    on_step: OnStep,
) -> TrainingSummary:
    own, spec, nodes = context.checkpoints, stage.spec, training.settings.compute.nodes
    own.release()  # the memory is the ranks'
    ranked = RankedTraining(
        start=own.existing(str(spec.model)),
        result=own.path(str(spec.result)),
        card=model_card(spec, context.recipe, own.seed_name),
        tokenizer=own.tokenizer,
        examples=given.examples,
        only_in=given.only_in,
        described=training.described,
        objective=training.objective.fingerprint,
        section=training.section,
        settings=training.settings,
        seed=training.seed,
        scale=scale,
        state_dir=stage.folder / STATE,
        objective_file=stage.folder / OBJECTIVE,
        device=own.device.type,
        trust_remote_code=own.trust_remote_code,
        threads=max(1, torch.get_num_threads() * nodes // ranks),
    )
    folder, note = stage.folder / RANKS, context.progress.note
    places = _places(context, ranks, nodes)
    summary = train_in_ranks(ranked, folder, places, on_step=on_step, note=note)
    write_json(stage.folder / WORLD, {"ranks": ranks, "nodes": nodes, "device": own.device.type})
    return summary


def _places(context: Context, ranks: int, nodes: int) -> Places:
    """Where the ranks of a training run."""
    crew = context.crew
    if nodes == 1 or crew is None:
        return ThisMachine(ranks)
    on_gpus = context.checkpoints.device.type == "cuda"
    wait = crew.config.start_seconds
    return SeveralNodes(crew.connected, nodes, ranks // nodes, on_gpus, wait)
