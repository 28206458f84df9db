"""Ctrl-C and SIGTERM while a stage trains: its steps are kept, and the run ends as if untouched."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from run_contents import contents


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_told_to_stop_keeps_its_steps(
    number: signal.Signals,
    recipe_file: Path,
    finished_run: Path,
):
    """States are saved every 1000 minutes, so what is kept was kept for the signal."""
    rarely = "save_state_every_minutes=1000"
    command = [sys.executable, "-c", "from cream.cli import main; main()", "run", str(recipe_file)]
    command += ["--set", f"sft.compute.{rarely}", "--set", f"training.compute.{rarely}"]
    root = recipe_file.parent / "run"
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
    metrics = root / "sft" / "train" / "metrics.jsonl"
    limit = time.monotonic() + 120
    while time.monotonic() < limit and not (metrics.exists() and metrics.stat().st_size > 200):
        time.sleep(0.005)
    process.send_signal(number)
    _, said = process.communicate(timeout=120)

    assert process.returncode == 130, said
    assert "interrupted; give the same command again to go on from here" in said
    (state,) = (root / "sft" / "train" / "state").iterdir()
    kept = int(state.name.removeprefix("step-"))
    assert kept >= len(metrics.read_text().splitlines()) > 1

    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    assert contents(root).keys() == contents(finished_run).keys()
    for name in ("M1", "M2", "M3"):
        path = Path("models", name, "model.safetensors")
        assert (root / path).read_bytes() == (finished_run / path).read_bytes()
