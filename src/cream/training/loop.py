"""The optimisation loop: steps, micro-batches, clipping, schedule, resume. It knows no loss.

An `Optimisation` says what a micro-batch contributes to the loss of its step, already divided by
the number of items of the *whole* step, so cutting a step differently changes nothing but rounding.
Metrics are summed over micro-batches the same way.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cream.algorithms.objective import Auxiliary
from cream.algorithms.resolution import Resolution
from cream.errors import Interrupted, NotFiniteError, TrainingError
from cream.models.devices import give_memory_back, is_out_of_memory
from cream.models.fused_decoder import FusedDecoder
from cream.recipe.training import ComputeConfig, OptimiserConfig
from cream.runs.seeds import derive_seed
from cream.training.forward import Forward, Policy, inference_behaviour
from cream.training.optimiser import (
    Weights,
    adamw,
    clip_gradients,
    plain_attention,
    update,
)
from cream.training.sharding import World, gather, shard
from cream.training.state import (
    States,
    Trained,
    auxiliary_parameters,
    kept_if_stopped,
    require_finite_weights,
)


@dataclass(frozen=True, slots=True)
class Ranks:
    """How the ranks of a world train one model."""

    world: World
    forward: Forward
    """How log-probabilities are computed on each of them."""


OnStep = Callable[[int, int, Mapping[str, float]], None]
"""Called after each step with its number (1 is the first), the number of steps, its metrics."""


NO_ROOM = (
    "memory does not hold a single example; set compute.gradient_checkpointing, lower max_length, "
    "or train adapters (lora)"
)


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one micro-batch adds to its step."""

    loss: Tensor
    """Scalar with gradient: sum over the micro-batch, divided by the items of the step."""
    metrics: Mapping[str, tuple[Tensor, Tensor]]
    """Per name the sum over the examples that have a value, and how many these are."""
    real_tokens: int
    """Tokens run through the model, padding excluded."""
    resolution: Resolution | None = None
    """How its gradient compares with rounding; None: not judged, the step is taken."""


@dataclass(frozen=True, slots=True)
class Optimisation:
    """What is optimised: steps as lists of micro-batches of item indices, and their loss."""

    steps: Sequence[Sequence[Sequence[int]]]
    contribute: Callable[[Any, Sequence[int], Sequence[Sequence[int]]], Contribution]
    """(model, indices of the micro-batch, micro-batches of its step) -> contribution."""
    longest_row: int
    fingerprint: str
    """Names data and options; a saved state of another fingerprint is refused."""
    auxiliary: Mapping[str, Auxiliary] = field(default_factory=dict)
    """Modules of the objective itself: trained and saved beside the model."""
    decoder: FusedDecoder | None = None
    """The model's fused form, if `contribute` is to compute with a `FusedTraining` of it."""
    ids: Sequence[str] = ()
    """Names of the items, by which what drops out of an adapter is drawn."""
    ranks: Ranks | None = None
    """The ranks that do it together; None: this process alone."""
    prepare: Callable[[Any], None] | None = None
    """Called with the model as it computes before the first step, interrupted or not."""
    recut: Callable[[Sequence[Sequence[int]], int], Sequence[Sequence[int]]] | None = None
    """(micro-batches of a step, k) -> the same items in micro-batches of budget / 2^k, for when
    memory does not hold the budget; None: they stay as they are."""
    describe: Callable[[Sequence[int]], Sequence[Any]] | None = None
    """Items as JSON values, for who looks for what broke a step."""


@dataclass(frozen=True, slots=True)
class Optimised:
    """What the loop did."""

    metrics: tuple[Mapping[str, float], ...]
    """One mapping per step; ``loss``, ``grad_norm``, ``learning_rate`` those of the
    micro-batches, and
    ``grad_norm/<name>`` for each module of the objective. The learning rate is 0 where the step was
    not taken, because its gradient was rounding alone."""
    real_tokens: int
    """Tokens run through the model by this call, padding excluded."""
    seconds: float
    """Wall-clock of this call; steps restored from a saved state cost nothing."""

    @property
    def steps_at_rounding(self) -> int:
        """Steps that were not taken."""
        return sum(step["learning_rate"] == 0 for step in self.metrics)


def optimise(
    model: Any,
    work: Optimisation,
    optimiser_config: OptimiserConfig,
    compute: ComputeConfig,
    *,
    dtype: torch.dtype,
    learning_rate_scale: float = 1.0,
    seed: int = 0,
    state_dir: Path | None = None,
    on_step: OnStep | None = None,
    say: Callable[[str], None] | None = None,
) -> Optimised:
    """Train a float32 model in place.

    Args:
        model: Float32 causal language model; parameters that require no gradient stay as they are.
        work: What to optimise.
        optimiser_config: Learning rate, schedule, decay, clipping.
        compute: Checkpointing and how often to save.
        dtype: Dtype of forward and backward.
        learning_rate_scale: Factor on the learning rate of the model, >= 0.
        seed: Seed of adapter dropout, the only randomness in here.
        state_dir: Folder for saved states, or None to save none. An existing state is continued.
        on_step: Called after every step, restored ones excluded; of several ranks by rank 0 alone.
            If it raises `Interrupted`, as it may during a step too (but not on ranks, which are
            in the midst of it together), the steps done so far are saved first.
        say: Told once whenever memory does not hold the token budget.

    Raises:
        TrainingError: A loss, gradient or weight is not finite, the saved state is of another
            training, or memory does not hold a single item.
    """
    ranks, world = work.ranks, work.ranks.world if work.ranks else None
    policy = shard(Policy(model, ranks.forward), model, dtype, ranks.world) if ranks else None
    weights = Weights(model, dtype, work.decoder, policy)
    optimiser = adamw(weights.masters, optimiser_config, work.auxiliary)
    trained = Trained({**weights.masters, **auxiliary_parameters(work.auxiliary)}, optimiser)
    weights.publish()
    metrics: list[Mapping[str, float]] = []
    tokens, started, total = 0, time.monotonic(), len(work.steps)
    with _training_behaviour(weights.model, work, compute) as has_dropout:
        if work.prepare is not None:
            work.prepare(weights.computing)
        states = None
        if state_dir is not None:
            states = States(state_dir, work.fingerprint, trained, compute, world)
            metrics = states.restore()
            weights.publish()
        room = _Room(weights, work, say)
        for step in range(len(metrics), total):
            with kept_if_stopped(states if world is None else None, metrics):
                drops = derive_seed(seed, "dropout", step) if has_dropout else None
                values, step_tokens, rounding = room.accumulate(step, drops)
                values |= _clip(weights, work, optimiser_config)
                _require_finite(values, step, work)
            values["learning_rate"] = (
                0.0
                if rounding
                else update(optimiser, optimiser_config, step, total, scale=learning_rate_scale)
            )
            weights.clear_gradients()
            for own in work.auxiliary.values():
                own.module.zero_grad()
            weights.publish()
            metrics.append(values)
            tokens += step_tokens
            if on_step is not None:
                with kept_if_stopped(states, metrics):
                    _tell(on_step, world, step + 1, total, values)
            if states is not None and step + 1 < total:
                states.save_if_due(metrics)
        require_finite_weights(trained, len(metrics), world)
    if policy is not None and world is not None:
        gather(policy, world)
    for master in trained.parameters.values():
        master.grad = None
    return Optimised(tuple(metrics), tokens, time.monotonic() - started)


def _tell(
    on_step: OnStep,
    world: World | None,
    step: int,
    total: int,
    values: Mapping[str, float],
) -> None:
    """Call it; what stops rank 0 stops all ranks after the same step."""
    if world is None:
        on_step(step, total, values)
        return
    stopped: Interrupted | None = None
    if world.rank == 0:
        try:
            on_step(step, total, values)
        except Interrupted as stop:
            stopped = stop
    if world.from_first(stopped is not None):
        raise stopped or Interrupted


def _clip(weights: Weights, work: Optimisation, config: OptimiserConfig) -> dict[str, float]:
    """Clip the model's gradient, and that of each module of the objective apart from it."""
    norms = {"grad_norm": clip_gradients(list(weights.masters.values()), config.max_grad_norm)}
    for name, own in work.auxiliary.items():
        parameters = list(own.module.parameters())
        if work.ranks is not None:
            work.ranks.world.sum_gradients(parameters)
        norms[f"grad_norm/{name}"] = clip_gradients(parameters, own.max_grad_norm)
    return norms


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return str(error).splitlines()[0] if str(error) else "no details"


def refuse_recut(world: World, what: str, problem: str) -> None:
    """Refuse smaller micro-batches where other ranks are in the midst of the ones that there are.

    Raises:
        TrainingError: There are others.
    """
    if world.size > 1:
        raise TrainingError(
            f"{what}: rank {world.rank} of {world.size} is out of memory ({problem}), and ranks "
            "that wait for it cannot cut a step anew; lower compute.micro_batch_tokens, set "
            "compute.gradient_checkpointing, or train on more ranks (compute.ranks)"
        )


class _Room:
    """Computes steps in micro-batches that memory holds: halved for good whenever it does not."""

    def __init__(
        self, weights: Weights, work: Optimisation, say: Callable[[str], None] | None
    ) -> None:
        self._weights, self._work, self._say = weights, work, say
        self._halvings = 0

    def accumulate(self, step: int, drops: int | None) -> tuple[dict[str, float], int, bool]:
        """What `_accumulate` says of a step, its gradient accumulated.

        Raises:
            TrainingError: Memory does not hold a single item, or one of several ranks has no more.
        """
        while True:
            parts = self._parts(step)
            try:
                return _accumulate(self._weights.computing, self._work, parts, drops)
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
                problem = first_line(error)
                if self._work.ranks is not None:
                    refuse_recut(self._work.ranks.world, f"training step {step + 1}", problem)
            # Outside of the handler, whose traceback would hold the tensors of the failed pass.
            self._halve(step, parts, problem)

    def _parts(self, step: int) -> Sequence[Sequence[int]]:
        parts = self._work.steps[step]
        if self._halvings and self._work.recut is not None:
            return self._work.recut(parts, self._halvings)
        return parts

    def _halve(self, step: int, parts: Sequence[Sequence[int]], problem: str) -> None:
        self._weights.clear_gradients()
        for own in self._work.auxiliary.values():
            own.module.zero_grad()
        own = [
            p for auxiliary in self._work.auxiliary.values() for p in auxiliary.module.parameters()
        ]
        give_memory_back([*self._weights.masters.values(), *own][0].device)
        if self._work.recut is None or all(len(part) == 1 for part in parts):
            raise TrainingError(f"training step {step + 1}: {NO_ROOM} ({problem})")
        while self._parts(step) == parts:
            self._halvings += 1
        if self._say is not None:
            self._say(
                f"training step {step + 1}: out of memory ({problem}); goes on with micro-batches "
                f"of 1/{2**self._halvings} of compute.micro_batch_tokens, which give the same "
                "result up to rounding"
            )


@contextmanager
def _training_behaviour(
    computing: Any, work: Optimisation, compute: ComputeConfig
) -> Iterator[bool]:
    """Behave as in inference, but for adapters; yields whether anything drops out."""
    if work.decoder is not None:  # has no modes: its formula is that of inference
        yield False
        return
    with (
        inference_behaviour(computing, gradient_checkpointing=compute.gradient_checkpointing),
        plain_attention(computing, longest_row=work.longest_row),
        _adapter_dropout(computing) as has_dropout,
    ):
        yield has_dropout


def _accumulate(
    model: Any, work: Optimisation, parts: Sequence[Sequence[int]], drops: int | None
) -> tuple[dict[str, float], int, bool]:
    """Metrics of a step, the tokens that all ranks ran, and whether its gradient is rounding."""
    world = work.ranks.world if work.ranks else None
    totals = {"loss": 0.0, "tokens": 0.0, "unjudged": 0.0, "gradient": 0.0, "rounding": 0.0}
    for micro_batch, counts in world.share(parts) if world else ((part, True) for part in parts):
        with seeded(None if drops is None else derive_seed(drops, work.ids[micro_batch[0]])):
            part = work.contribute(model, micro_batch, parts)
        (part.loss if counts else part.loss * 0).backward()
        found = {"loss": part.loss.item(), "tokens": float(part.real_tokens)}
        if part.resolution is None:
            found["unjudged"] = 1.0
        else:
            found |= asdict(part.resolution)
        for name, (value, count) in part.metrics.items():
            found |= {f"sum {name}": value.item(), f"count {name}": float(count)}
        for name, value in found.items():
            totals[name] = totals.get(name, 0.0) + (value if counts else 0.0)
    if world is not None:
        totals = world.sum(totals)
    names = [name.removeprefix("sum ") for name in totals if name.startswith("sum ")]
    # A metric that no example of the step has is absent, not 0.
    known = [name for name in names if totals[f"count {name}"]]
    means = {name: totals[f"sum {name}"] / totals[f"count {name}"] for name in known}
    resolved = Resolution(totals["gradient"], totals["rounding"])
    rounding = not totals["unjudged"] and resolved.is_rounding
    return {"loss": totals["loss"], **means}, int(totals["tokens"]), rounding


def _require_finite(values: Mapping[str, float], step: int, work: Optimisation) -> None:
    bad = {name: value for name, value in values.items() if not math.isfinite(value)}
    if not bad:
        return
    items = [i for part in work.steps[step] for i in part]
    raise NotFiniteError(
        f"training step {step + 1}: {', '.join(f'{n} is {v}' for n, v in bad.items())}. "
        "Lower the learning rate or beta, or train in float32 (compute.precision).",
        {
            "step": step + 1,
            "values": {name: str(value) for name, value in values.items()},
            "examples": list(work.describe(items)) if work.describe is not None else items,
        },
    )


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Draw from a named seed inside, and leave the global stream as it was."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


@contextmanager
def _adapter_dropout(model: nn.Module) -> Iterator[bool]:
    """Switch on the dropout of LoRA adapters alone; yields whether there is any."""
    found = [
        module
        for name, module in model.named_modules()
        if ".lora_dropout." in f".{name}." and isinstance(module, nn.Dropout)
    ]
    for module in found:
        module.train()
    try:
        yield bool(found)
    finally:
        for module in found:
            module.eval()
