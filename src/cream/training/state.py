"""The state of an unfinished optimisation on disk: weights, moments, step, metrics so far.

Tensors are safetensors and the rest JSON; nothing is pickled. A state appears by one rename of a
whole folder and the older one is deleted afterwards, so there is always a complete one. Its
fingerprint names what it belongs to; a state of other data or options is refused, not continued.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cream.errors import TrainingError
from cream.runs.files import read_json, remove_leftovers, replacing_folder, write_json

TENSORS, PROGRESS = "tensors.safetensors", "progress.json"
MOMENTS = ("exp_avg", "exp_avg_sq")


def save_state(
    folder: Path,
    *,
    fingerprint: str,
    metrics: Sequence[Mapping[str, float]],
    masters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.AdamW,
) -> None:
    """Write the state after as many steps as there are metrics, and delete older ones."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in masters.items():
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        # A parameter that never had a gradient has no moments, and is left alone on both sides.
        for moment in MOMENTS if parameter in optimiser.state else ():
            tensors[f"{moment}/{name}"] = optimiser.state[parameter][moment].contiguous()
    target = folder / f"step-{len(metrics):08d}"
    if target.exists():
        return
    with replacing_folder(target) as temporary:
        save_file(tensors, temporary / TENSORS)
        write_json(
            temporary / PROGRESS,
            {"fingerprint": fingerprint, "metrics": [dict(m) for m in metrics]},
        )
    for older in _states(folder)[:-1]:
        shutil.rmtree(older)


def load_state(
    folder: Path,
    *,
    fingerprint: str,
    masters: Mapping[str, nn.Parameter],
    optimiser: torch.optim.AdamW,
) -> list[Mapping[str, float]]:
    """Put the newest state into the weights and the optimiser.

    Returns:
        Metrics of each step done, in order; empty if there is no state.

    Raises:
        TrainingError: The state belongs to other data, options or model.
    """
    if not folder.is_dir():
        return []
    remove_leftovers(folder)
    states = _states(folder)
    if not states:
        return []
    values = read_json(states[-1] / PROGRESS)
    tensors = load_file(states[-1] / TENSORS)
    names = {name.removeprefix("weight/") for name in tensors if name.startswith("weight/")}
    if values["fingerprint"] != fingerprint or names != set(masters):
        raise TrainingError(
            f"{states[-1]} was saved by a training with other data, options or model. "
            "Delete the folder to train from the start."
        )
    steps = torch.tensor(float(len(values["metrics"])))
    with torch.no_grad():
        for name, parameter in masters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            if f"{MOMENTS[0]}/{name}" not in tensors:
                continue
            optimiser.state[parameter] = {
                "step": steps.clone().to(parameter.device),
                **{m: tensors[f"{m}/{name}"].to(parameter.device) for m in MOMENTS},
            }
    return list(values["metrics"])


def _states(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"))
