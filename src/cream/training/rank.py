"""The program of one rank: a training of which it is told by a folder, with the others' help.

Started with torchrun's environment variables by `cream.training.launch`, where it ends when its
standard input does, so that no rank outlives what started it; or by torchrun itself.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from cream.algorithms.consistency import StageScale
from cream.algorithms.objective import Objective
from cream.algorithms.preference import supervised
from cream.errors import CreamError, Interrupted, NotFiniteError, TrainingError
from cream.kernels.memory import keep_freed_memory
from cream.models.loading import load_model, weightless_model
from cream.models.saving import save_model
from cream.recipe.parts import MethodParts
from cream.recipe.policy_gradient import PolicyGradient
from cream.recipe.training import SftConfig, TrainingConfig
from cream.runs.files import read_json, read_table, write_json
from cream.runs.tables import examples_from_table
from cream.training.sharding import World, joined_world
from cream.training.train import train

JOB, EXAMPLES, TOKENIZER = "job.json", "examples.parquet", "tokenizer"
STEPS, SUMMARY, FAILED = "steps.jsonl", "summary.json", "failed.json"
STOP = "stop"
"""A file whose presence asks the ranks to save their state after the step under way, and end."""
INTERRUPTED = 130
"""Exit code of a rank that was asked to stop."""
WATCHED = "CREAM_RANK_ENDS_WITH_INPUT"
"""Environment variable of a rank whose standard input is held open by what started it."""
SETTINGS = {"sft": SftConfig, "training": TrainingConfig}


class _SavedTokenizer:
    """A tokenizer as the files that it was saved as."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def save_pretrained(self, target: Path) -> None:
        """Copy the files."""
        shutil.copytree(self._folder, target, dirs_exist_ok=True)


def run(folder: Path, world: World) -> None:
    """Do the training that the folder describes."""
    job = read_json(folder / JOB)
    start = Path(job["start"])
    if world.rank == 0:
        model: Any = load_model(start, trust_remote_code=job["trust_remote_code"])
    else:
        model = weightless_model(start, trust_remote_code=job["trust_remote_code"])

    def told(step: int, total: int, metrics: Mapping[str, float]) -> None:
        with (folder / STEPS).open("a", encoding="utf-8") as stream:
            line = {"step": step, "total": total, "metrics": dict(metrics)}
            stream.write(json.dumps(line) + "\n")
        if (folder / STOP).exists():
            raise Interrupted

    kind = SETTINGS[job["section"]]
    summary = train(
        model,
        examples_from_table(read_table(folder / EXAMPLES)),
        objective_of(job["described"], job["objective"]),
        kind.model_validate(job["settings"]),
        seed=job["seed"],
        only_in=job["only_in"],
        scale=StageScale(**job["scale"]),
        state_dir=Path(job["state_dir"]),
        objective_file=Path(job["objective_file"]),
        on_step=told,
        world=world,
    )
    if world.rank == 0:
        tokenizer: Any = _SavedTokenizer(folder / TOKENIZER)
        save_model(model, tokenizer, Path(job["result"]), card=job["card"])
        write_json(folder / SUMMARY, asdict(summary))


@dataclass(frozen=True, slots=True)
class Described:
    """What makes the objective of a recipe in another process, as JSON values."""

    parts: Mapping[str, Any]
    """`MethodParts`."""
    samples: int
    """The most completions that a prompt has."""
    reads_reference: bool
    """Whether examples bring the token log-probabilities of a loss reference."""


def method_objective(parts: MethodParts, samples: int, *, reads_reference: bool) -> Objective:
    """The method's objective; that over samples knows how many a prompt has."""
    if isinstance(parts.objective, PolicyGradient):
        return parts.objective.build_for(
            samples,
            reads_reference=reads_reference,
            per_action=parts.trajectory is not None and parts.trajectory.per_action,
        )
    return parts.build_objective()


def objective_of(described: Mapping[str, Any] | None, fingerprint: str) -> Objective:
    """The objective that ranks are told of; None is fine-tuning's.

    Raises:
        TrainingError: It is another than that of the process which started the ranks.
    """
    made = supervised()
    if described is not None:
        told = Described(**described)
        parts = MethodParts.model_validate(told.parts)
        made = method_objective(parts, told.samples, reads_reference=told.reads_reference)
    if made.fingerprint != fingerprint:
        raise TrainingError(
            f"ranks would train under the objective {made.fingerprint!r} and not under "
            f"{fingerprint!r}. Set compute.ranks: 1."
        )
    return made


def _end_with_input() -> None:
    with suppress(OSError):
        while os.read(0, 1 << 12):
            pass
    os._exit(1)


def main(folder: Path, work: Callable[[Path, World], None]) -> int:
    """Do a rank's work, and leave word of what a user can do something about."""
    if WATCHED in os.environ:
        threading.Thread(target=_end_with_input, daemon=True).start()
    keep_freed_memory()
    job = read_json(folder / JOB)
    torch.set_num_threads(job["threads"])
    try:
        with joined_world(job["device"]) as world:
            work(folder, world)
    except CreamError as error:
        failed = {"kind": type(error).__name__, "message": str(error)}
        batch = {"batch": error.batch} if isinstance(error, NotFiniteError) else {}
        write_json(folder / FAILED, {**failed, **batch})
        return 2
    except Interrupted:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), run))
