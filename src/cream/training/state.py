"""The state of an unfinished optimisation on disk: weights, moments, step, metrics so far.

Tensors are safetensors and the rest JSON; nothing is pickled. A state appears by one rename of a
whole folder and the older one is deleted afterwards, so there is always a complete one. Its
fingerprint names what it belongs to; a state of other data or options is refused, not continued.

Every rank writes the rows that it holds into a file of its own, and reads the rows that it needs
from all files, so a state is continued by any number of ranks.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from cream.algorithms.objective import Auxiliary, Objective
from cream.errors import CreamError, Interrupted, TrainingError
from cream.models.saving import first_not_finite
from cream.recipe.training import ComputeConfig, TrainingSettings
from cream.runs.files import (
    read_sealed,
    remove_folder,
    remove_leftovers,
    replacing_folder,
    write_sealed,
)
from cream.runs.integrity import digest
from cream.training.sharding import World, like, local_part
from cream.types import Example

TENSORS, PROGRESS = "tensors.safetensors", "progress.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


NO_RESULT = ("save_state_every_minutes", "ranks", "nodes")
"""Settings of ``compute`` that do not touch the result and may change between attempts."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What steps change: parameters and the moments that the optimiser keeps of them."""

    parameters: Mapping[str, nn.Parameter]
    optimiser: torch.optim.AdamW


def auxiliary_parameters(auxiliary: Mapping[str, Auxiliary]) -> dict[str, nn.Parameter]:
    """Parameters of an objective's own modules, by names that no model's parameter has."""
    return {
        f"objective.{name}.{parameter_name}": parameter
        for name, own in auxiliary.items()
        for parameter_name, parameter in own.module.named_parameters()
    }


class States:
    """Saved states of one optimisation, written when enough time has passed."""

    def __init__(
        self,
        folder: Path,
        fingerprint: str,
        trained: Trained,
        compute: ComputeConfig,
        world: World | None = None,
    ) -> None:
        self.folder = folder
        self.fingerprint = fingerprint
        self.trained = trained
        self.world = world
        self.interval_seconds = 60 * compute.save_state_every_minutes
        self.saved = time.monotonic()

    def restore(self) -> list[Mapping[str, float]]:
        """Load the newest state, if any, and return the metrics of the steps it has done."""
        return load_state(self.folder, self.trained, fingerprint=self.fingerprint, world=self.world)

    def save_if_due(self, metrics: Sequence[Mapping[str, float]]) -> None:
        """Save unless the last save was less than the interval ago, by the clock of rank 0."""
        due = time.monotonic() - self.saved >= self.interval_seconds
        if due if self.world is None else self.world.from_first(due):
            self.save(metrics)

    def save(self, metrics: Sequence[Mapping[str, float]]) -> None:
        """Save the state after as many steps as there are metrics; all ranks together."""
        require_finite_weights(self.trained, len(metrics), self.world)
        save_state(
            self.folder,
            self.trained,
            fingerprint=self.fingerprint,
            metrics=metrics,
            world=self.world,
        )
        self.saved = time.monotonic()


@contextmanager
def kept_if_stopped(
    states: States | None, metrics: Sequence[Mapping[str, float]]
) -> Iterator[None]:
    """Where nothing has touched the weights since the last step, an interruption costs no step."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        if states is not None and metrics:
            states.save(metrics)
        raise


def require_finite_weights(trained: Trained, steps: int, world: World | None = None) -> None:
    """Neither a state nor a model is kept of weights that a step has broken.

    Raises:
        TrainingError: One is NaN or infinite, on whichever rank.
    """
    bad = first_not_finite((name, local_part(p)) for name, p in trained.parameters.items())
    if world is not None:
        bad = next((name for name in world.from_all(bad) if name is not None), None)
    if bad is not None:
        raise TrainingError(
            f"training step {steps}: its loss is finite and the weights after it are not (first: "
            f"{bad}); the last finite weights are those of step {steps - 1}. Lower the learning "
            "rate, or train in float32 (compute.precision)."
        )


def save_state(
    folder: Path,
    trained: Trained,
    *,
    fingerprint: str,
    metrics: Sequence[Mapping[str, float]],
    world: World | None = None,
) -> None:
    """Write the state after as many steps as there are metrics, and delete older ones."""
    target = folder / f"step-{len(metrics):08d}"
    if target.exists():
        return
    if world is not None and world.rank > 0:
        world.from_all(_save_rows(world.from_first(), trained, world))
        world.from_first()
        return
    with replacing_folder(target) as temporary:
        if world is not None:
            world.from_first(temporary)
        saved = _save_rows(temporary, trained, world)
        files = [saved] if world is None else world.from_all(saved)
        progress = {"fingerprint": fingerprint, "metrics": [dict(m) for m in metrics]}
        write_sealed(temporary / PROGRESS, {**progress, "tensors": dict(files)})
    for older in _states(folder)[:-1]:
        remove_folder(older)
    if world is not None:
        world.from_first(target)  # none goes on, and saves again, before the state has its name


def _save_rows(folder: Path, trained: Trained, world: World | None) -> tuple[str, str]:
    """Write what this process holds; the name of the file and its digest."""
    tensors: dict[str, Tensor] = {}
    moments = trained.optimiser.state
    for name, parameter in trained.parameters.items():
        if world is not None and world.rank > 0 and not isinstance(parameter, DTensor):
            continue  # held whole by every rank
        tensors[f"weight/{name}"] = local_part(parameter).contiguous()
        # A parameter that never had a gradient has no moments, and is left alone on both sides.
        for moment in MOMENTS if parameter in moments else ():
            tensors[f"{moment}/{name}"] = local_part(moments[parameter][moment]).contiguous()
        if parameter in moments:
            tensors[f"step/{name}"] = moments[parameter]["step"]
    name = TENSORS if world is None else f"tensors-{world.rank:05d}-of-{world.size:05d}.safetensors"
    save_file(tensors, folder / name)
    return name, digest(folder / name)


def load_state(
    folder: Path, trained: Trained, *, fingerprint: str, world: World | None = None
) -> list[Mapping[str, float]]:
    """Put the newest state into the weights and the optimiser.

    Returns:
        Metrics of each step done, in order; empty if there is no state.

    Raises:
        TrainingError: The state belongs to other data, options or model, or is damaged.
    """
    if not folder.is_dir():
        return []
    if world is None or world.rank == 0:
        remove_leftovers(folder)
    states = _states(folder) if world is None else world.from_first(_states(folder))
    if not states:
        return []
    values = _whole(states[-1])
    tensors = _Rows([states[-1] / name for name in sorted(values["tensors"])])
    names = {name.removeprefix("weight/") for name in tensors.names if name.startswith("weight/")}
    if values["fingerprint"] != fingerprint or names != set(trained.parameters):
        raise TrainingError(
            f"{states[-1]} was saved by a training with other data, options or model. "
            "Delete the folder to train from the start."
        )
    with torch.no_grad():
        for name, parameter in trained.parameters.items():
            rows = None
            if world is not None and isinstance(parameter, DTensor):
                rows = world.rows(len(parameter))
            local_part(parameter).copy_(tensors.read(f"weight/{name}", rows))
            if f"{MOMENTS[0]}/{name}" not in tensors.names:
                continue
            moments = {key: tensors.read(f"{key}/{name}", rows) for key in MOMENTS}
            trained.optimiser.state[parameter] = {
                "step": tensors.read(f"step/{name}", None).to(parameter.device),
                **{key: like(parameter, moment) for key, moment in moments.items()},
            }
    return list(values["metrics"])


class _Rows:
    """Tensors of which several files hold rows, in the order of the files."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files: list[Any] = [safe_open(file, "pt") for file in files]
        self._holding: dict[str, list[Any]] = {}
        for file in self._files:
            for name in file.keys():  # noqa: SIM118 - no mapping
                self._holding.setdefault(name, []).append(file)

    @property
    def names(self) -> Collection[str]:
        """Names of the tensors."""
        return self._holding.keys()

    def read(self, name: str, rows: slice | None) -> Tensor:
        """Some rows of a tensor, or all of it; a number stands in every file."""
        parts, start = [], 0
        for file in self._holding[name]:
            shape = file.get_slice(name).get_shape()
            if not shape:
                return file.get_tensor(name)
            stop = start + shape[0]
            wanted = slice(start, stop) if rows is None else rows
            low, high = max(wanted.start, start), min(wanted.stop, stop)
            if low < high:
                parts.append(file.get_slice(name)[low - start : high - start])
            start = stop
        if not parts:  # a rank may have no row of a short tensor
            return self._holding[name][0].get_slice(name)[0:0]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def _whole(state: Path) -> dict[str, Any]:
    """What a state says of itself, once its tensors are what was saved."""
    try:
        values = read_sealed(state / PROGRESS)
        for name, written in values["tensors"].items():
            if digest(state / name) != written:
                raise TrainingError(f"{state / name} is damaged")
        return values
    except (OSError, KeyError, AttributeError, CreamError) as error:
        raise TrainingError(
            f"the saved training state {state} cannot be used ({error}). Delete that folder to "
            "train from the start, or from an older state if there is one."
        ) from error


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))


def fingerprint_of(
    examples: Sequence[Example],
    objective: Objective,
    settings: TrainingSettings,
    *,
    seed: int,
    dtype: torch.dtype,
    learning_rate_scale: float = 1.0,
    only_in: Mapping[str, int] | None = None,
) -> str:
    """Hash what the steps depend on, but for the model's weights at the start.

    How often a state is saved is left out: it may change between two attempts.
    """
    digest = hashlib.blake2b(digest_size=16)
    for example in examples:
        digest.update(json.dumps(asdict(example), sort_keys=True).encode())
    digest.update(f"{objective.name} {objective.fingerprint}".encode())
    fields = settings.model_dump_json(exclude={"compute": set(NO_RESULT)})
    digest.update(fields.encode())
    digest.update(f"{seed} {dtype} {learning_rate_scale!r}".encode())
    if only_in:
        digest.update(json.dumps(only_in, sort_keys=True).encode())
    return digest.hexdigest()
