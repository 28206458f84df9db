"""Train a model on examples under an objective: fine-tuning, preferences, or any other loss.

What an objective needs beside log-probabilities is joined here. Reference log-probabilities arrive
with the examples; no reference model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from cream.algorithms.consistency import StageScale
from cream.algorithms.objective import Auxiliary, Objective, ObjectiveInputs, PerExample
from cream.algorithms.resolution import resolution, token_error
from cream.errors import TrainingError
from cream.models.devices import give_memory_back, is_out_of_memory, pick_compute_dtype
from cream.models.positions import context_length
from cream.recipe.training import TrainingSettings
from cream.runs.files import replacing_file
from cream.runs.seeds import derive_seed
from cream.training.batches import micro_batches, steps_of
from cream.training.examples import BatchLayout, require, usable
from cream.training.forward import (
    Route,
    allows_fused,
    choose_route,
    inference_behaviour,
    named_route,
)
from cream.training.loop import (
    NO_ROOM,
    Contribution,
    OnStep,
    Optimisation,
    Optimised,
    Ranks,
    first_line,
    optimise,
    refuse_recut,
    seeded,
)
from cream.training.lora import adapters
from cream.training.sharding import World
from cream.training.state import fingerprint_of
from cream.types import Example, Tally


def train(
    model: Any,
    examples: Sequence[Example],
    objective: Objective,
    settings: TrainingSettings,
    *,
    seed: int,
    only_in: Mapping[str, int] | None = None,
    scale: StageScale | None = None,
    state_dir: Path | None = None,
    objective_file: Path | None = None,
    on_step: OnStep | None = None,
    say: Callable[[str], None] | None = None,
    world: World | None = None,
) -> TrainingSummary:
    """Train a float32 model in place.

    Args:
        model: Float32 transformers causal language model; float32 on return as well.
        examples: Token ids by role, and what the objective reads of them.
        objective: Which loss.
        settings: Optimiser, epochs, adapters, memory and speed.
        seed: Seed of the order (of adapters, and of the objective's own modules); the order
            depends on ids, not on positions.
        only_in: Epoch (0 is the first) of examples that are seen in one only, by id.
        scale: What a set-level C does to the stage; None: nothing.
        state_dir: Folder from which an interrupted training goes on, or None.
        objective_file: Where the objective's own modules are saved at the end, as safetensors;
            nothing is written for an objective without any.
        on_step: Called after every step.
        say: Told what a user should know at once: that memory does not hold the token budget.
        world: The ranks that train together, each of which calls this; the trained model is rank
            0's, on the CPU. The weights of the others' models may be on ``meta``.

    Returns:
        What was trained and how. Metrics of a step: ``loss``, the objective's own, ``grad_norm``,
        ``learning_rate``.

    Raises:
        DataError: No example is left, two have one id, or one lacks what the objective needs.
        ModelError: The model cannot do what settings or objective ask for.
        TrainingError: A loss is not finite, or `state_dir` belongs to another training.
    """
    scale = scale or StageScale()
    require(examples, objective.needs, objective=objective.name)
    context = context_length(model.config) or settings.max_length
    kept, dropped = usable(examples, objective, min(settings.max_length, context))
    device = world.device if world else model.get_input_embeddings().weight.device
    dtype = pick_compute_dtype(device, settings.compute.precision).dtype
    route = _route(model, kept, objective, settings, world)
    done = Optimised((), 0, 0.0)
    if scale.skipped is None:
        work = _Work(model, kept, objective, settings, route, seed, dtype, device, world, only_in)
        fingerprint = fingerprint_of(
            kept,
            objective,
            settings,
            seed=seed,
            dtype=dtype,
            learning_rate_scale=scale.learning_rate,
            only_in=only_in,
        )
        leads = world is None or world.rank == 0
        with adapters(model, settings.lora, seed=seed, merges=leads):
            done = optimise(
                model,
                work.optimisation(fingerprint),
                settings.optimiser,
                settings.compute,
                dtype=dtype,
                learning_rate_scale=scale.learning_rate,
                seed=seed,
                state_dir=state_dir,
                on_step=on_step,
                say=say,
            )
        if work.auxiliary and objective_file is not None and leads:
            _save(work.auxiliary, objective_file)
    skipped = scale.skipped is not None
    trained = {"trained": 0 if skipped else len(kept), "skipped": len(kept) if skipped else 0}
    taken = (len(done.metrics) - done.steps_at_rounding) / max(1, len(done.metrics))
    return TrainingSummary(
        steps=len(done.metrics),
        tally=Tally(len(examples), {**trained, **dropped}),
        metrics=done.metrics,
        real_tokens=done.real_tokens,
        seconds=done.seconds,
        precision=str(dtype).removeprefix("torch."),
        head=route.head,
        layout=route.layout,
        learning_rate_scale=scale.learning_rate,
        skipped=scale.skipped,
        steps_at_rounding=done.steps_at_rounding,
        relative_movement=scale.learning_rate * taken,
        warnings=(*_at_rounding(done), *objective.warnings(done.metrics)),
    )


def _at_rounding(done: Optimised) -> tuple[str, ...]:
    skipped, total = done.steps_at_rounding, len(done.metrics)
    if not skipped:
        return ()
    return (
        f"{skipped} of {total} steps were not taken: their gradient was no more than the rounding "
        "of log-probabilities, as where C = 1/2 and the margin is 0, or every ratio is clipped",
    )


class _Work:
    """The examples of one training, cut into steps, with the loss of a micro-batch."""

    def __init__(
        self,
        model: Any,
        examples: Sequence[Example],
        objective: Objective,
        settings: TrainingSettings,
        route: Route,
        seed: int,
        dtype: torch.dtype,
        device: torch.device,
        world: World | None,
        only_in: Mapping[str, int] | None = None,
    ) -> None:
        self.examples = examples
        self.objective = objective
        self.route = route
        self.layout = BatchLayout(objective.needs, shared=route.layout == "shared")
        self.device, self.world, self.seed = device, world, seed
        self.token_budget = settings.compute.micro_batch_tokens
        self.steps = self._cut(settings, seed, only_in)
        self.auxiliary = _own_modules(objective, model, seed, self.device)
        self.modules = {name: own.module for name, own in self.auxiliary.items()}
        self.hook = objective.hook and objective.hook(self.modules)
        self.start: dict[str, Mapping[str, Tensor]] = {}
        self.error = token_error(dtype)
        # A loss that also acts through hidden states or modules of its own is more than its sums.
        self.judged = not (objective.needs.hidden or self.auxiliary or self.hook)

    def optimisation(self, fingerprint: str) -> Optimisation:
        """What the optimisation loop takes."""
        return Optimisation(
            self.steps,
            self.contribute,
            max(max(self.layout.row_lengths(example)) for example in self.examples),
            fingerprint,
            self.auxiliary,
            self.route.decoder,
            [example.example_id for example in self.examples],
            None if self.world is None else Ranks(self.world, self.route.by_model),
            self.score_start if self.objective.needs.start_logps else None,
            self.recut,
            lambda indices: [asdict(self.examples[i]) for i in indices],
        )

    def contribute(
        self, model: Any, indices: Sequence[int], step: Sequence[Sequence[int]]
    ) -> Contribution:
        """The loss of a step as far as this micro-batch goes."""
        examples = [self.examples[i] for i in indices]
        batch = self.layout.batch(examples).to(self.device)
        computed = self.route.forward(model, batch.tokens, self.hook)
        start = None
        if self.start:
            start = {
                role: [self.start[e.example_id][role] for e in examples]
                for role in self.objective.needs.scored
            }
        inputs = batch.inputs(computed.token_logps, computed.states, start, self.modules)

        def loss(inputs: ObjectiveInputs) -> PerExample:
            return self.objective.loss(inputs) * batch.weights

        losses = loss(inputs)
        return Contribution(
            losses.sum() / self._divisor(step),
            {name: _known(value) for name, value in self.objective.metrics(inputs).items()},
            sum(sum(self.layout.row_lengths(example)) for example in examples),
            resolution(loss, inputs, error=self.error) if self.judged else None,
        )

    def recut(self, step: Sequence[Sequence[int]], halvings: int) -> Sequence[Sequence[int]]:
        """The items of a step in micro-batches of the token budget over 2^halvings."""
        indices = [i for part in step for i in part]
        return self._micro_batches(indices, self.token_budget >> halvings)

    def score_start(self, model: Any) -> None:
        """Keep the log-probabilities of the loss tokens as they are before the first step.

        In the micro-batches of the first epoch and with gradients, as the steps compute them: an
        untrained policy then equals its start to the last bit.
        """
        for indices in self._unseen():
            # What drops out depends on the micro-batch, not on what this process ran before it.
            with seeded(derive_seed(self.seed, "prepare", self.examples[indices[0]].example_id)):
                self._keep_start(model, indices)
        if self.world is not None:
            mine = {key: _moved(of, torch.device("cpu")) for key, of in self.start.items()}
            for others in self.world.from_all(mine):
                self.start |= {key: _moved(of, self.device) for key, of in others.items()}

    def _unseen(self) -> Iterator[Sequence[int]]:
        """Micro-batches until every example was in one, as far as this process runs them."""
        seen: set[int] = set()
        for step in self.steps:
            if len(seen) == len(self.examples):
                return
            parts = [part for part in step if not seen.issuperset(part)]
            seen |= {i for part in parts for i in part}
            yield from parts if self.world is None else (m for m, _ in self.world.share(parts))

    def _keep_start(self, model: Any, indices: Sequence[int]) -> None:
        examples = [self.examples[i] for i in indices]
        batch = self.layout.batch(examples).to(self.device)
        logps = None
        try:
            logps = self.route.forward(model, batch.tokens, self.hook).token_logps.detach()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if self.world is not None:
                refuse_recut(self.world, "the start's log-probabilities", first_line(error))
            if len(indices) == 1:
                raise TrainingError(f"the start's log-probabilities: {NO_ROOM}") from error
        if logps is None:
            give_memory_back(self.device)
            half = len(indices) // 2
            self._keep_start(model, indices[:half])
            self._keep_start(model, indices[half:])
            return
        by_role = batch.loss_token_logps(logps)
        for i, example in enumerate(examples):
            found = {role: values[i] for role, values in by_role.items()}
            self.start.setdefault(example.example_id, found)

    def _divisor(self, step: Sequence[Sequence[int]]) -> int:
        indices = [i for part in step for i in part]
        if self.objective.normalised_by == "example":
            return len(indices)
        return sum(self.layout.loss_tokens(self.examples[i]) for i in indices)

    def _cut(
        self, settings: TrainingSettings, seed: int, only_in: Mapping[str, int] | None
    ) -> list[list[list[int]]]:
        """Steps as micro-batches of indices."""
        steps = []
        for step in steps_of(
            [example.example_id for example in self.examples],
            batch_size=settings.optimiser.batch_size,
            epochs=settings.epochs,
            seed=seed,
            only_in=only_in,
        ):
            steps.append(self._micro_batches(step, self.token_budget))
        return steps

    def _micro_batches(self, indices: Sequence[int], token_budget: int) -> list[list[int]]:
        shapes = [self.layout.shape(self.examples[i]) for i in indices]
        parts = micro_batches(shapes, token_budget=token_budget)
        return [[indices[j] for j in part] for part in parts]


def _known(values: Tensor) -> tuple[Tensor, Tensor]:
    """Sum and number of the examples that have a value."""
    absent = torch.isnan(values)
    return torch.where(absent, 0, values).sum(), (~absent).sum()


def _moved(start: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {role: values.to(device) for role, values in start.items()}


def _own_modules(
    objective: Objective, model: Any, seed: int, device: torch.device
) -> dict[str, Auxiliary]:
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "objective"))
        own = dict(objective.auxiliary(model.config.get_text_config().hidden_size))
    for auxiliary in own.values():
        auxiliary.module.to(device, torch.float32)
    return own


def _route(
    model: Any,
    examples: Sequence[Example],
    objective: Objective,
    settings: TrainingSettings,
    world: World | None,
) -> Route:
    if world is not None and world.rank > 0:
        return named_route(*world.from_first())
    layout = BatchLayout(objective.needs, shared=True)
    could_share = any(len(roles) > 1 for e in examples for roles in layout.rows(e))
    with inference_behaviour(model, gradient_checkpointing=False):
        route = choose_route(
            model,
            layout=settings.compute.pair_layout if could_share else "separate",
            longest_row=max(max(layout.row_lengths(example)) for example in examples),
            fused=allows_fused(settings) and world is None,
        )
    if world is not None:
        world.from_first((route.head, route.layout))
    return route


def _save(auxiliary: Mapping[str, Auxiliary], path: Path) -> None:
    tensors = {
        f"{name}.{key}": value.detach().cpu().contiguous()
        for name, own in auxiliary.items()
        for key, value in own.module.state_dict().items()
    }
    with replacing_file(path) as temporary:
        save_file(tensors, temporary)


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
    steps_at_rounding: int = 0
    """Steps that were not taken, because their gradient was rounding alone."""
    relative_movement: float = 1.0
    """How far the optimiser could move the weights, relative to C = 1, in [0, 1]: the factor on the
    learning rate times the share of steps that were taken."""
    warnings: tuple[str, ...] = ()
    """Observations a user should see, each one sentence."""
