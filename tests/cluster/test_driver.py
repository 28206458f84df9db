"""The driver of a run on workers is killed, or told to stop, and the command given again."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Command

from run_contents import contents

pytestmark = pytest.mark.cluster
SMALL = (
    "iterations=1",
    "sampling.prompts_per_shard=1",
    "sampling.num_completions=8",
    "evaluation.prompts_per_shard=3",
)


def run(recipe_file: Path, run_dir: Path, *changes: str) -> Command:
    given = [f"run_dir={run_dir}", *SMALL, *changes]
    return Command("run", str(recipe_file), *(part for c in given for part in ("--set", c)))


def parts(run_dir: Path) -> list[Path]:
    return list((run_dir / "iteration-1" / "sample").glob("part-*"))


def test_a_killed_driver_leaves_no_process_and_its_run_goes_on_with_more_workers(
    recipe_file: Path, tmp_path: Path, tiny_recipe: Any, run_whole: Callable[..., Path]
):
    pytest.importorskip("ray", reason="needs Ray: `make test-cluster` installs it")
    alone = run_whole(tiny_recipe(tmp_path / "alone", *SMALL))
    killed = run(recipe_file, tmp_path / "run", "cluster=ray", "cluster.workers=1")
    killed.wait_for(lambda: len(parts(tmp_path / "run")) >= 2)
    killed.process.kill()
    killed.said()
    assert killed.left() == []
    kept = {path.name: path.stat().st_mtime_ns for path in parts(tmp_path / "run")}

    again = run(recipe_file, tmp_path / "run", "cluster=ray", "cluster.workers=2")
    said = again.said()

    assert again.process.returncode == 0, said
    assert contents(tmp_path / "run") == contents(alone)
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in parts(tmp_path / "run")}.items()
    assert again.left() == []


def test_ctrl_c_ends_workers_and_ray(recipe_file: Path, tmp_path: Path):
    """Twice: the second stops at once, in the middle of a shard."""
    pytest.importorskip("ray", reason="needs Ray: `make test-cluster` installs it")
    command = run(recipe_file, tmp_path / "run", "cluster=ray", "cluster.workers=2")
    command.wait_for(lambda: len(parts(tmp_path / "run")) >= 1)
    command.process.send_signal(signal.SIGINT)
    command.process.send_signal(signal.SIGINT)
    said = command.said()
    assert command.process.returncode == 130, said
    assert command.left() == []
    assert parts(tmp_path / "run")
    assert not (tmp_path / "run" / "iteration-1" / "sample" / "stage.json").exists()
