"""Starting the ranks of a training, hearing how far they are, and starting them again.

A rank that dies takes the others with it: they wait for it in a collective. So all are ended, and
all are started again from the last state, at most `RESTARTS` times; an error of ours that a rank
leaves word of is raised at once. Ranks know the environment variables that torchrun sets and a
folder, and nothing of what started them.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from cream import errors
from cream.algorithms.consistency import StageScale
from cream.errors import CreamError, Interrupted, NotFiniteError, RecipeError, TrainingError
from cream.recipe.training import ComputeConfig, TrainingSettings
from cream.runs.files import (
    make_folder,
    read_json,
    remove_folder,
    remove_leftovers,
    write_json,
    write_table,
)
from cream.runs.tables import examples_to_table
from cream.training.loop import OnStep
from cream.training.rank import (
    EXAMPLES,
    FAILED,
    JOB,
    STEPS,
    STOP,
    SUMMARY,
    TOKENIZER,
    WATCHED,
    Described,
)
from cream.training.train import TrainingSummary
from cream.types import Example, Tally

TRAINS = "cream.training.rank"
"""Module of a rank that trains."""
RESTARTS = 3
"""How often ranks are started again after one has died."""
LOOK_SECONDS = 0.2
GRACE_SECONDS = 2.0
"""How long the others may take to leave word when one rank ends."""
STOP_SECONDS = 60.0
"""How long ranks that were asked to stop may take to end a step and save their state."""
LOG_LINES = 12
LOST = 1 << 10
"""In place of an exit code: the rank's node answers no more."""


@dataclass(frozen=True, slots=True)
class RankedTraining:
    """A training as ranks are told of it."""

    start: Path
    """Folder of the model to start from."""
    result: Path
    """Folder of the trained model; must not exist."""
    card: str
    tokenizer: Any
    examples: list[Example]
    only_in: Mapping[str, int]
    """Epoch of those that are seen in one only, by id."""
    described: Described | None
    """What makes the objective; None is fine-tuning's."""
    objective: str
    """Fingerprint of the objective that it is to make."""
    section: str
    """``sft`` or ``training``: whose settings these are."""
    settings: TrainingSettings
    seed: int
    scale: StageScale
    state_dir: Path
    objective_file: Path
    device: str
    trust_remote_code: bool
    threads: int

    def write(self, folder: Path) -> None:
        """Write everything that the ranks read."""
        make_folder(folder)
        write_table(folder / EXAMPLES, examples_to_table(self.examples))
        self.tokenizer.save_pretrained(folder / TOKENIZER)
        told = {
            "start": str(self.start.resolve()),
            "result": str(self.result.resolve()),
            "card": self.card,
            "described": None if self.described is None else asdict(self.described),
            "objective": self.objective,
            "only_in": dict(self.only_in),
            "section": self.section,
            "settings": self.settings.model_dump(mode="json"),
            "seed": self.seed,
            "scale": {"learning_rate": self.scale.learning_rate, "skipped": self.scale.skipped},
            "state_dir": str(self.state_dir.resolve()),
            "objective_file": str(self.objective_file.resolve()),
            "device": self.device,
            "trust_remote_code": self.trust_remote_code,
            "threads": self.threads,
        }
        write_json(folder / JOB, told)


@runtime_checkable
class Running(Protocol):
    """Rank processes, wherever they are."""

    def ended(self) -> list[int | None]:
        """Exit code of each rank; None of one that runs, `LOST` of one that nobody can ask."""
        ...

    def end(self) -> None:
        """End all of them and whatever they have started."""
        ...


@runtime_checkable
class Places(Protocol):
    """Where the ranks of a training run."""

    @property
    def ranks(self) -> int:
        """How many there are."""
        ...

    def start(self, folder: Path) -> Running:
        """Start all of them on the training that a folder describes."""
        ...


@dataclass(frozen=True, slots=True)
class ThisMachine:
    """All ranks here."""

    ranks: int

    def start(self, folder: Path) -> Ranks:
        """See `Places`."""
        here = "127.0.0.1"
        return Ranks(folder, environments(self.ranks, 1, here, free_port(here))[0])


class Ranks:
    """The rank processes of one node."""

    def __init__(
        self, folder: Path, environments: list[dict[str, str]], program: str = TRAINS
    ) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []
        with ExitStack() as stack:
            for environment in environments:
                log = stack.enter_context((folder / f"rank-{environment['RANK']}.log").open("wb"))
                self._processes.append(
                    subprocess.Popen(  # noqa: S603 - this very Python
                        [sys.executable, "-m", program, str(folder)],
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **environment, WATCHED: "1"},
                        start_new_session=True,  # Ctrl-C reaches Cream alone, which decides
                    )
                )

    def ended(self) -> list[int | None]:
        """Exit code of each rank; None of one that runs."""
        return [process.poll() for process in self._processes]

    def end(self) -> None:
        """End all of them and whatever they have started."""
        for process in self._processes:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        for process in self._processes:
            process.wait()
            if process.stdin is not None:
                process.stdin.close()


def number_of_ranks(
    compute: ComputeConfig, device: torch.device, *, divisible: bool, reaches_nodes: bool
) -> int:
    """Ranks that a training is to have, on all its nodes together.

    Args:
        compute: The recipe's settings.
        device: Where the model runs. Every node is taken to have as many GPUs as this machine.
        divisible: Whether the ranks can be told what to do: by a recipe, not by objects.
        reaches_nodes: Whether other nodes can be reached, which is by Ray.

    Raises:
        RecipeError: More than there are GPUs, on nodes that cannot be reached, or of what they
            cannot be told.
    """
    if compute.nodes > 1 and not reaches_nodes:
        raise RecipeError(
            f"compute.nodes: {compute.nodes} nodes train together through Ray; set cluster: ray, "
            "or nodes: 1"
        )
    gpus = torch.cuda.device_count() if device.type == "cuda" else 0
    if compute.ranks == "auto" and compute.nodes == 1:
        return max(1, gpus) if divisible and device.index is None else 1
    each = max(1, gpus) if compute.ranks == "auto" else compute.ranks
    if each * compute.nodes > 1 and not divisible:
        raise RecipeError(
            f"compute.ranks: {each * compute.nodes} ranks cannot be given an objective that is an "
            "object of Python; set ranks: 1 and nodes: 1, or call cream.training.train.train under "
            "torchrun"
        )
    if device.type == "cuda" and each > gpus:
        raise RecipeError(
            f"compute.ranks: {each} ranks, and this machine has {gpus} GPUs; set at most {gpus}"
        )
    return each * compute.nodes


def train_in_ranks(
    training: RankedTraining,
    folder: Path,
    places: Places,
    *,
    on_step: OnStep,
    note: Callable[[str], None],
) -> TrainingSummary:
    """Train on ranks; the trained model is in ``training.result``.

    Args:
        training: What to do.
        folder: For what ranks are told and tell; removed on success. On several nodes it is on a
            disk that all of them share, as the folders of `training` are.
        places: Where they run.
        on_step: Called after every step, restored ones excluded.
        note: Told when ranks are started again.

    Raises:
        CreamError: What a rank raised.
        TrainingError: Ranks died more than `RESTARTS` times.
    """
    died: str | None = None
    for attempt in range(RESTARTS + 1):
        remove_folder(folder)
        remove_folder(training.result)
        remove_leftovers(training.result.parent)  # of a rank that was killed while it saved
        training.write(folder)
        died = _attempt(folder, places, on_step)
        if died is None:
            summary = _summary(read_json(folder / SUMMARY))
            remove_folder(folder)
            return summary
        if attempt < RESTARTS:
            note(f"{died}; all {places.ranks} ranks start again from the last state")
    raise TrainingError(
        f"{died}, {RESTARTS + 1} times. The last state is kept: mend what the log names, or set "
        f"another compute.ranks.{tail(folder)}"
    )


def _attempt(folder: Path, places: Places, on_step: OnStep) -> str | None:
    """Run the ranks to their end; None, or which of them died and how."""
    steps = _Steps(folder / STEPS, on_step)
    running = places.start(folder)
    try:
        while True:
            ended = running.ended()
            with _stopping(running, folder):
                steps.tell()
            if all(code == 0 for code in ended):
                return None
            if any(code not in (None, 0) for code in ended):
                break
            time.sleep(LOOK_SECONDS)
        wait_for_word(folder)
    finally:
        running.end()
    return death(ended, folder)


def wait_for_word(folder: Path) -> None:
    """Give ranks of which one has ended a moment to leave word of it."""
    until = time.monotonic() + GRACE_SECONDS
    while time.monotonic() < until and not (folder / FAILED).exists():
        time.sleep(LOOK_SECONDS)


def death(ended: Sequence[int | None], folder: Path) -> str:
    """Which rank died and how, by the exit codes of all.

    Raises:
        CreamError: What a rank has left word of.
    """
    if (folder / FAILED).exists():
        raise _raised(read_json(folder / FAILED))
    rank, code = next((r, c) for r, c in enumerate(ended) if c is not None and c != 0)
    how = f"was killed by signal {-code}" if code < 0 else f"ended with exit code {code}"
    return f"rank {rank} of {len(ended)} {'was lost with its node' if code == LOST else how}"


@contextmanager
def _stopping(running: Running, folder: Path) -> Iterator[None]:
    """Who hears of a step and stops has the ranks save a state first; Ctrl-C again ends them."""
    try:
        yield
    except (Interrupted, KeyboardInterrupt):
        (folder / STOP).touch()
        until = time.monotonic() + STOP_SECONDS
        while time.monotonic() < until and None in running.ended():
            time.sleep(LOOK_SECONDS)
        raise


def _raised(failed: Mapping[str, Any]) -> CreamError:
    """What a rank raised, as if it had been raised here."""
    if failed["kind"] == NotFiniteError.__name__:
        return NotFiniteError(failed["message"], failed["batch"])
    kind: type[CreamError] = getattr(errors, failed["kind"], CreamError)
    return kind(failed["message"])


def free_port(host: str) -> int:
    """A port of this machine that nobody has."""
    with socket.socket() as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


def environments(each: int, nodes: int, host: str, port: int) -> list[list[dict[str, str]]]:
    """What torchrun would set for every rank of every node.

    Args:
        each: Ranks of one node.
        nodes: Nodes; the first has rank 0.
        host: Address of the first, as all nodes reach it.
        port: Of it, where ranks meet.
    """
    common = {
        "WORLD_SIZE": str(each * nodes),
        "LOCAL_WORLD_SIZE": str(each),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }
    return [
        [{**common, "RANK": str(n * each + r), "LOCAL_RANK": str(r)} for r in range(each)]
        for n in range(nodes)
    ]


class _Steps:
    """The steps that rank 0 tells of, as they come."""

    def __init__(self, path: Path, on_step: OnStep) -> None:
        self._path, self._on_step, self._read = path, on_step, 0

    def tell(self) -> None:
        """Hand on what is new."""
        for line in self._new():
            told = json.loads(line)
            self._on_step(told["step"], told["total"], told["metrics"])

    def _new(self) -> Iterator[bytes]:
        if not self._path.exists():
            return
        with self._path.open("rb") as stream:
            stream.seek(self._read)
            for line in stream:
                if not line.endswith(b"\n"):
                    return
                self._read += len(line)
                yield line


def _summary(values: dict[str, Any]) -> TrainingSummary:
    tally = Tally(values["tally"]["total"], values["tally"]["parts"])
    sequences = {"metrics": tuple(values["metrics"]), "warnings": tuple(values["warnings"])}
    return TrainingSummary(**{**values, **sequences, "tally": tally})


def tail(folder: Path) -> str:
    """Last lines of the log that has most to say."""
    logs = sorted(folder.glob("rank-*.log"), key=lambda path: path.stat().st_size)
    if not logs:
        return ""
    lines = logs[-1].read_text(encoding="utf-8", errors="replace").splitlines()
    kept = [line for line in lines if line.strip()][-LOG_LINES:]
    return f"\n{logs[-1].name} ends:\n  " + "\n  ".join(kept) if kept else ""
