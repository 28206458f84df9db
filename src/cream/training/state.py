"""The state of an unfinished optimisation on disk: weights, moments, step, metrics so far.

Tensors are safetensors and the rest JSON; nothing is pickled. A state appears by one rename of a
whole folder and the older one is deleted afterwards, so there is always a complete one. Its
fingerprint names what it belongs to; a state of other data or options is refused, not continued.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cream.algorithms.objective import Auxiliary
from cream.errors import CreamError, TrainingError
from cream.runs.files import (
    read_sealed,
    remove_folder,
    remove_leftovers,
    replacing_folder,
    write_sealed,
)
from cream.runs.integrity import digest

TENSORS, PROGRESS = "tensors.safetensors", "progress.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


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


def save_state(
    folder: Path, trained: Trained, *, fingerprint: str, metrics: Sequence[Mapping[str, float]]
) -> None:
    """Write the state after as many steps as there are metrics, and delete older ones."""
    tensors: dict[str, Tensor] = {}
    moments = trained.optimiser.state
    for name, parameter in trained.parameters.items():
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        # A parameter that never had a gradient has no moments, and is left alone on both sides.
        for moment in MOMENTS if parameter in moments else ():
            tensors[f"{moment}/{name}"] = moments[parameter][moment].contiguous()
        if parameter in moments:
            tensors[f"step/{name}"] = moments[parameter]["step"]
    target = folder / f"step-{len(metrics):08d}"
    if target.exists():
        return
    with replacing_folder(target) as temporary:
        save_file(tensors, temporary / TENSORS)
        write_sealed(
            temporary / PROGRESS,
            {
                "fingerprint": fingerprint,
                "metrics": [dict(m) for m in metrics],
                "tensors": digest(temporary / TENSORS),
            },
        )
    for older in _states(folder)[:-1]:
        remove_folder(older)


def load_state(folder: Path, trained: Trained, *, fingerprint: str) -> list[Mapping[str, float]]:
    """Put the newest state into the weights and the optimiser.

    Returns:
        Metrics of each step done, in order; empty if there is no state.

    Raises:
        TrainingError: The state belongs to other data, options or model, or is damaged.
    """
    if not folder.is_dir():
        return []
    remove_leftovers(folder)
    states = _states(folder)
    if not states:
        return []
    values = _whole(states[-1])
    tensors = load_file(states[-1] / TENSORS)
    names = {name.removeprefix("weight/") for name in tensors if name.startswith("weight/")}
    if values["fingerprint"] != fingerprint or names != set(trained.parameters):
        raise TrainingError(
            f"{states[-1]} was saved by a training with other data, options or model. "
            "Delete the folder to train from the start."
        )
    with torch.no_grad():
        for name, parameter in trained.parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            if f"{MOMENTS[0]}/{name}" not in tensors:
                continue
            trained.optimiser.state[parameter] = {
                key: tensors[f"{key}/{name}"].to(parameter.device) for key in ("step", *MOMENTS)
            }
    return list(values["metrics"])


def _whole(state: Path) -> dict[str, Any]:
    """What a state says of itself, once its tensors are what was saved."""
    try:
        values = read_sealed(state / PROGRESS)
        if values["tensors"] == digest(state / TENSORS):
            return values
        raise TrainingError(f"{state / TENSORS} is damaged")
    except (OSError, KeyError, CreamError) as error:
        raise TrainingError(
            f"the saved training state {state} cannot be used ({error}). Delete that folder to "
            "train from the start, or from an older state if there is one."
        ) from error


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))
