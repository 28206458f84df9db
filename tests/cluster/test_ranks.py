"""Training divided among ranks is the training of one process, beyond rounding.

Averaged gradients in place of summed ones would show in the gradient norm alone: it is halved by
two ranks, while Adam's step does not see the scale and the loss of the first step neither.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from cream.testing import tiny_model_folder

pytestmark = pytest.mark.cluster
PROGRAM = Path(__file__).with_name("rank_case.py")
CASES = (
    *("sft", "cream", "mixed", "undecided", "lora", "probed", "start", "checkpointed"),
    *("bfloat16", "resumed"),
)
WORLDS = (0, 1, 2, 3)
Process = subprocess.Popen[bytes]


def environments(world: int) -> list[dict[str, str]]:
    """What torchrun would set; one empty mapping for a training without ranks."""
    if world == 0:
        return [{}]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{**place, "RANK": str(r), "LOCAL_RANK": str(r)} for r in range(world)]


def start(folder: Path, cases: Sequence[str], world: int, dies_at: int = 0) -> list[Process]:
    """Processes that train the cases one after another, each from the same tiny model."""
    for case in cases:
        tiny_model_folder(folder / case / "model")
    command = [sys.executable, str(PROGRAM), str(folder), ",".join(cases), str(dies_at)]
    return [
        subprocess.Popen(
            command, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for env in environments(world)
    ]


def outcome(folder: Path) -> tuple[list[dict[str, float]], dict[str, Any]]:
    """Metrics of each step, and the weights with those of the objective's own modules."""
    weights = load_file(folder / "weights.safetensors")
    own = folder / "objective.safetensors"
    if own.exists():
        weights |= {f"objective {name}": value for name, value in load_file(own).items()}
    return json.loads((folder / "metrics.json").read_text()), weights


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two ranks of which rank 0 dies of SIGKILL after step 2 of 4; the other has ended by itself.

    It does within 30 s, for the connection to rank 0 is lost.
    """
    folder = tmp_path_factory.mktemp("killed")
    dying, other = start(folder, ["resumed"], 2, dies_at=2)
    dying.communicate(timeout=120)
    other.communicate(timeout=30)
    assert dying.returncode == -9
    assert other.returncode not in (0, None)
    return folder / "resumed"


@pytest.fixture(scope="module")
def trained(killed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders ``<ranks>/<case>``; 0 ranks is one process. ``resumed`` goes on from `killed`."""
    folder = tmp_path_factory.mktemp("trained")
    for world in WORLDS:
        shutil.copytree(killed / "state", folder / str(world) / "resumed" / "state")
        processes = start(folder / str(world), CASES, world)
        said = [process.communicate(timeout=300)[0].decode() for process in processes]
        assert [process.returncode for process in processes] == [0] * len(processes), said
    return folder


def assert_same(
    left: tuple[list[dict[str, float]], dict[str, Any]],
    right: tuple[list[dict[str, float]], dict[str, Any]],
    *,
    weight: float = 5e-5,
) -> None:
    """Loss within 1e-6 and gradient norm within 1e-5 of their size, step by step."""
    assert len(left[0]) == len(right[0])
    for ours, theirs in zip(left[0], right[0], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5)
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-6, abs=1e-6)
    assert left[1].keys() == right[1].keys()
    for name, value in left[1].items():
        assert torch.allclose(value, right[1][name], rtol=0, atol=weight), name


@pytest.mark.parametrize("case", CASES[:-2])
@pytest.mark.parametrize("world", WORLDS[1:])
def test_ranks_train_as_one_process(case: str, world: int, trained: Path):
    """Steps of 7 and 4 items in micro-batches that two and three ranks cannot share evenly."""
    assert_same(outcome(trained / str(world) / case), outcome(trained / "0" / case))


@pytest.mark.parametrize("world", WORLDS)
def test_all_ranks_leave_out_a_step_whose_whole_gradient_is_rounding(world: int, trained: Path):
    """And take one of which some micro-batches are: all gradients are judged as one."""
    metrics, _ = outcome(trained / str(world) / "undecided")
    assert [step["learning_rate"] > 0 for step in metrics] == [False, True, True]


def test_ranks_in_bfloat16_agree_as_far_as_bfloat16_goes(trained: Path):
    alone, two = outcome(trained / "0" / "bfloat16"), outcome(trained / "2" / "bfloat16")
    norms = [[step["grad_norm"] for step in metrics] for metrics, _ in (alone, two)]
    assert norms[0] == pytest.approx(norms[1], rel=0.03)
    for name, value in alone[1].items():
        assert torch.allclose(value, two[1][name], rtol=0, atol=1e-2), name


@pytest.mark.parametrize("world", WORLDS)
def test_a_state_of_two_ranks_is_continued_by_any_number(world: int, trained: Path):
    assert_same(outcome(trained / str(world) / "resumed"), outcome(trained / "0" / "probed"))


def test_a_rank_without_memory_says_so_and_cuts_no_step_alone(tmp_path: Path):
    processes = start(tmp_path, ["cramped"], 2)
    said = [process.communicate(timeout=120)[0].decode() for process in processes]
    assert "training step 1: rank 1 of 2 is out of memory (no room for it)" in said[1]
    assert [process.returncode == 0 for process in processes] == [False, False]


def test_a_state_is_whole_and_no_pickle(killed: Path):
    (state,) = (killed / "state").glob("step-*")
    assert state.name == "step-00000001"
    assert sorted(path.name for path in state.iterdir()) == [
        "progress.json",
        "tensors-00000-of-00002.safetensors",
        "tensors-00001-of-00002.safetensors",
    ]
