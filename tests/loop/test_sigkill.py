"""The promise of the README: killed at any time, the same command finishes with the same result."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

CREAM = str(Path(sys.executable).with_name("cream"))
LONGER = (
    "sampling.prompts_per_shard=1",
    "evaluation.prompts_per_shard=1",
    "data.prompts.per_iteration=16",
    "sampling.num_completions=8",
    "training.epochs=12",
    "training.optimiser.batch_size=2",
)
"""Many small parts and steps, so that there is a middle of a stage to be killed in."""
WANTED = {
    "sample": "part-00002.parquet",
    "score/M0": "part-00002.parquet",
    "train": "state/step-*",
    "evaluate": "part-00002.parquet",
}
"""Stage -> the file whose appearance says that the stage is in its middle."""


def command(recipe_file: Path, run_dir: Path) -> list[str]:
    changes = [f"run_dir={run_dir}", *LONGER]
    return [CREAM, "run", str(recipe_file), *(p for c in changes for p in ("--set", c))]


def killed_within(arguments: list[str], run_dir: Path, stage: str) -> bool:
    """Run until the stage's file appears, kill; tell whether the stage was caught unfinished."""
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    folder, pattern = run_dir / stage, WANTED[stage.partition("/")[2]]
    while not any(folder.glob(pattern)):
        if process.poll() is not None:
            pytest.fail(f"ended before {stage}: {process.communicate()[1].decode()}")
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)
    return not (folder / "stage.json").exists()


def summary(run_dir: Path) -> dict[str, Any]:
    values = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    return {key: value for key, value in values.items() if not key.startswith("seconds")}


@pytest.mark.slow
def test_a_process_killed_in_four_stages_ends_with_the_result_of_an_uninterrupted_one(
    recipe_file: Path, tmp_path: Path
):
    """One run killed in turn while it samples, scores, trains and evaluates.

    A kill that comes too late (the stage is over) is tried again in the next iteration.
    """
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    subprocess.run(command(recipe_file, whole), check=True, capture_output=True, timeout=240)
    hits = []
    for t in (1, 2):
        for stage in WANTED:
            if stage not in hits and killed_within(
                command(recipe_file, killed), killed, f"iteration-{t}/{stage}"
            ):
                hits.append(stage)
    subprocess.run(command(recipe_file, killed), check=True, capture_output=True, timeout=240)

    assert set(hits) == set(WANTED)
    assert summary(killed) == summary(whole)
    assert not list(killed.rglob(".tmp-*"))


@pytest.mark.slow
def test_a_second_process_in_the_same_directory_is_refused(recipe_file: Path, tmp_path: Path):
    run_dir = tmp_path / "shared"
    arguments = command(recipe_file, run_dir)
    first = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 120
        while not (run_dir / "recipe.yaml").exists():
            assert first.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        second = subprocess.run(
            [*arguments, "--quiet"], capture_output=True, text=True, timeout=120, check=False
        )
        assert first.poll() is None, "the first run ended too early to tell"
    finally:
        first.kill()
        first.wait()

    assert second.returncode == 2
    assert "another cream process is using" in second.stderr
