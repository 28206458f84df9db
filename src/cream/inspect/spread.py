"""How a recipe spreads over workers and ranks, and how its seconds do: arithmetic, nothing starts.

Every worker and every rank is taken to be as fast as what was timed. A step takes as many rounds as
its ranks need for its micro-batches; what moves between them is counted in bytes always, and in
seconds where somebody says how fast it moves.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from cream.engines.crew import LANES_PER_WORKER, Crew
from cream.inspect.rates import StepCost
from cream.recipe import Recipe
from cream.recipe.cluster import RayCluster
from cream.recipe.training import TrainingSettings
from cream.records import Count, Record, StageSpec
from cream.report.terminal import duration, size

WHOLE_BYTES, FROZEN_BYTES, STATE_BYTES = 16, 4, 12
"""Per parameter: trained (float32 weight, gradient, two moments); frozen under adapters (float32);
in a saved state (weight and moments)."""
GRADIENT_BYTES = 4


class PlannedWorkers(Record):
    """Workers that sample and score."""

    workers: Count | None
    """Null where the cluster decides, once it is asked."""
    model_bytes: Count
    """Weights that a worker holds; vLLM shares them among its GPUs, scoring does not."""
    gpus_per_worker: Count
    lanes_per_worker: Count
    fewest_shards: Count
    """Shards of the stage that has fewest of them."""
    warnings: list[str]


class PlannedRanks(Record):
    """Ranks that train or score, and what each holds."""

    section: str
    ranks: Count
    nodes: Count
    bytes_per_rank: Count
    """Weights, gradients and moments; activations and one gathered layer come on top."""
    round_bytes: Count
    """At most so much comes to a rank from the others, and goes from it, in a round: while every
    rank runs a micro-batch forward and backward, or scores a batch. 0 of one rank."""
    state_bytes: Count | None
    """A saved state; null with adapters, whose state is small, and where nothing is trained."""
    device_bytes: Count | None
    """Memory of a GPU here; null without one."""
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class Spread:
    """Over what the work of a plan spreads."""

    ranks: Sequence[PlannedRanks] = ()
    workers: PlannedWorkers | None = None
    bytes_per_second: float | None = None
    """What reaches a rank from the others; None where nobody says."""

    def share_of_worker(self, shards: int) -> float:
        """Of a stage's work, what the worker that has most of it does; all are equally fast."""
        workers = 1 if self.workers is None else self.workers.workers or 1
        return math.ceil(shards / workers) / shards

    def of(self, section: str) -> PlannedRanks | None:
        """How a training spreads; None where nobody says, which is one rank."""
        return next((ranks for ranks in self.ranks if ranks.section == section), None)


class PlannedStep(Record):
    """A step of a training on its ranks, by its tokens; padding is not counted."""

    micro_batches: Count
    ranks: Count
    rounds: Count
    """Micro-batches that a rank runs one after the other, ghosts among them."""
    traffic_bytes: Count
    """At most so much comes to a rank from the others, and goes from it."""
    traffic_seconds: float | None
    """What that takes, as if nothing were computed meanwhile; null where nobody says how fast."""

    @property
    def share(self) -> float:
        """Of the step's tokens, those of the rank that has most."""
        return self.rounds / self.micro_batches


def step_on_ranks(
    tokens: float, section: str, settings: TrainingSettings, spread: Spread
) -> PlannedStep:
    """How a step of so many tokens (> 0) is divided."""
    budget, items = settings.compute.micro_batch_tokens, settings.optimiser.batch_size
    micro_batches = max(1, min(items, math.ceil(tokens / budget)))
    planned, rate = spread.of(section), spread.bytes_per_second
    ranks = 1 if planned is None else planned.ranks
    rounds = math.ceil(micro_batches / ranks)
    moved = 0 if planned is None else rounds * planned.round_bytes
    seconds = None if rate is None else moved / rate
    return PlannedStep(
        micro_batches=micro_batches,
        ranks=ranks,
        rounds=rounds,
        traffic_bytes=moved,
        traffic_seconds=seconds if moved else 0.0,
    )


@dataclass(frozen=True, slots=True)
class TrainingWork:
    """What a stage trains on, and how a step of it spreads."""

    steps: int
    tokens: float
    step: PlannedStep

    def seconds(self, cost: StepCost) -> float:
        """Of all steps; what moves between ranks is in it where somebody says how fast.

        Args:
            cost: Of one rank. Its fixed part, the optimiser's work in it, is not divided.
        """
        moving = self.step.traffic_seconds or 0.0
        return self.steps * (cost.fixed + moving) + self.tokens * cost.per_token * self.step.share


def training_work(
    recipe: Recipe, stage: StageSpec, tokens: float, spread: Spread
) -> TrainingWork | None:
    """Steps of a stage and how one spreads; None where nothing is trained on."""
    match stage.kind:
        case "fine_tune":
            section, settings, items = "sft", recipe.sft, stage.completions
        case "train":
            items = stage.examples or stage.completions // 2
            section, settings = "training", recipe.training
        case _:
            return None
    steps = stage.epochs * math.ceil(items / settings.optimiser.batch_size)
    if not steps:
        return None
    whole = tokens * min(settings.optimiser.batch_size, items) / (stage.epochs * items)
    return TrainingWork(steps, tokens, step_on_ranks(whole, section, settings, spread))


def planned_workers(
    recipe: Recipe, crew: Crew | None, stages: Sequence[StageSpec], model_bytes: int
) -> PlannedWorkers | None:
    """How sampling and scoring spread; None for a recipe that stays in one process.

    Args:
        recipe: What is to be run.
        crew: Its workers, not started.
        stages: Its plan.
        model_bytes: Weights in the arithmetic of sampling and scoring.
    """
    if crew is None or not isinstance(recipe.cluster, RayCluster):
        return None
    shards = {}
    for spec in stages:
        settings = recipe.evaluation if spec.kind == "evaluate" else recipe.sampling
        if spec.kind in ("sample", "evaluate"):
            shards[spec.kind] = math.ceil(spec.prompts / settings.prompts_per_shard), settings
    workers = None if recipe.cluster.workers == "auto" else recipe.cluster.workers
    warnings = []
    for kind, (count, settings) in shards.items():
        section = "evaluation" if kind == "evaluate" else "sampling"
        if workers is not None and count < workers:
            fits = max(1, count * settings.prompts_per_shard // workers)
            warnings.append(
                f"{section}: {count} shards for {workers} workers leave some idle; set "
                f"{section}.prompts_per_shard to {fits} or less"
            )
    has = gpu_bytes()
    if has is not None and model_bytes > has and recipe.scoring.ranks == 1:
        warnings.append(
            f"scoring: {size(model_bytes)} of weights on one GPU of {size(has)} do not fit; torch "
            "scores on one GPU of a worker, or on several of this machine (scoring.ranks)"
        )
    return PlannedWorkers(
        workers=workers,
        model_bytes=model_bytes,
        gpus_per_worker=crew.gpus,
        lanes_per_worker=LANES_PER_WORKER[crew.engine],
        fewest_shards=min((count for count, _ in shards.values()), default=0),
        warnings=warnings,
    )


def planned_ranks(
    section: str, settings: TrainingSettings, ranks: int, parameters: int, *, itemsize: int
) -> PlannedRanks:
    """What each rank of a training holds, and whether all have something to do.

    Args:
        section: ``sft`` or ``training``.
        settings: Of it.
        ranks: On all nodes.
        parameters: Weights of the model.
        itemsize: Bytes of a weight in the arithmetic of the training. Weights are gathered in it
            twice a round, forward and backward; gradients move in float32.
    """
    moved = 2 * itemsize + (0 if settings.lora is not None else GRADIENT_BYTES)
    per_parameter = WHOLE_BYTES if settings.lora is None else FROZEN_BYTES
    held = math.ceil(per_parameter * parameters / ranks)
    has = gpu_bytes()
    warnings = []
    if ranks > settings.optimiser.batch_size:
        warnings.append(
            f"{section}.compute.ranks: {ranks} ranks, and a step has "
            f"{settings.optimiser.batch_size} items; the others run ghosts"
        )
    if has is not None and held > has:
        warnings.append(
            f"{section}: {size(held)} on each GPU of {size(has)} does not fit; take more ranks, or "
            f"adapters ({section}.lora)"
        )
    return PlannedRanks(
        section=section,
        ranks=ranks,
        nodes=settings.compute.nodes,
        bytes_per_rank=held,
        round_bytes=math.ceil(moved * parameters * (ranks - 1) / ranks),
        state_bytes=STATE_BYTES * parameters if settings.lora is None else None,
        device_bytes=has,
        warnings=warnings,
    )


def scoring_ranks(ranks: int, model_bytes: int) -> PlannedRanks:
    """What each rank of scoring holds.

    Args:
        ranks: How many.
        model_bytes: Weights in the arithmetic of scoring, which are gathered once a batch.
    """
    has, held = gpu_bytes(), math.ceil(model_bytes / ranks)
    warnings = []
    if has is not None and held > has:
        warnings.append(
            f"scoring: {size(held)} on each GPU of {size(has)} does not fit; take more ranks"
        )
    return PlannedRanks(
        section="scoring",
        ranks=ranks,
        nodes=1,
        bytes_per_rank=held,
        round_bytes=model_bytes - model_bytes // ranks,
        state_bytes=None,
        device_bytes=has,
        warnings=warnings,
    )


def gpu_bytes() -> int | None:
    """Memory of the first GPU here; None without one."""
    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def spread_lines(
    spread: Spread, steps: Mapping[str, PlannedStep | None], *, timed: bool
) -> list[str]:
    """All of it in words; nothing of a recipe that runs in one process.

    Args:
        spread: Workers and ranks.
        steps: A step of each training, by section; None of one that does not train.
        timed: Whether seconds were told.
    """
    lines, workers = [], spread.workers
    if workers is not None:
        count = "as many workers as the cluster has room for"
        if workers.workers is not None:
            count = f"{workers.workers} workers"
        lines.append(
            f"cluster: {count}, {size(workers.model_bytes)} of weights and "
            f"{workers.gpus_per_worker} GPUs each, {workers.lanes_per_worker} "
            f"shards on their way to each; {workers.fewest_shards} shards in the smallest stage"
        )
        if timed and workers.workers is None:
            lines.append("  sampling and scoring are timed as of one worker; set cluster.workers")
        lines += [f"  {warning}" for warning in workers.warnings]
    for one in spread.ranks:
        state = "" if one.state_bytes is None else f"; a saved state {size(one.state_bytes)}"
        if one.ranks > 1 or one.warnings:
            where = f" on {one.nodes} nodes" if one.nodes > 1 else ""
            lines.append(
                f"{one.section}: {one.ranks} ranks{where}, {size(one.bytes_per_rank)} on each, "
                f"plus activations{state}"
            )
            lines += [f"  {warning}" for warning in one.warnings]
        step = steps.get(one.section)
        if one.ranks > 1 and step is not None:
            lines.append(f"  {_step_words(step)}")
    return lines


def _step_words(step: PlannedStep) -> str:
    cut = "1 micro-batch" if step.micro_batches == 1 else f"{step.micro_batches} micro-batches"
    rounds = "1 round" if step.rounds == 1 else f"{step.rounds} rounds"
    if step.traffic_seconds is None:
        counted = "whose time is not counted (--bandwidth says how fast)"
    else:
        counted = f"counted as {duration(step.traffic_seconds)}"
    return (
        f"a step: about {cut}, {rounds} of {step.ranks} ranks as fast "
        f"as the one timed; {size(step.traffic_bytes)} to and from each, {counted}"
    )
