"""A comparison killed as a process, again and again, ends with what an uninterrupted one has."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

CREAM = str(Path(sys.executable).with_name("cream"))
MOMENTS = (
    "cream/seed-1/sft/train/state/step-*",
    "srlm/seed-1/iteration-1/score/M0/shared.json",
    "srlm/seed-1/iteration-1/train/state/step-*",
)
"""Files whose appearance says that the moment has come: in a training, amid sharing, in another."""


def command(recipe_file: Path, out: Path) -> list[str]:
    changes = ("iterations=1", "method.pairing.truncated=keep", "training.epochs=8")
    settings = [part for change in changes for part in ("--set", change)]
    members = ["--methods", "cream,srlm", "--out", str(out)]
    return [CREAM, "compare", str(recipe_file), *members, *settings, "--json"]


def killed_at(arguments: list[str], out: Path, moment: str) -> None:
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not any(out.glob(moment)):
        if process.poll() is not None:
            pytest.fail(f"ended before {moment}: {process.communicate()[1].decode()}")
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.kill()
    process.communicate(timeout=60)


def without_cost(text: str) -> dict[str, Any]:
    comparison = json.loads(text)
    del comparison["cost"]
    for method in comparison["methods"]:
        del method["cost"]
    return comparison


@pytest.mark.slow
def test_a_comparison_killed_three_times_ends_like_an_uninterrupted_one(
    recipe_file: Path, tmp_path: Path
):
    """Figures are equal, and so is what is shared: 3 of data, 3 of M0 and M1, 5 of iteration 1."""
    killed, whole = tmp_path / "killed", tmp_path / "whole"
    expected = subprocess.run(
        command(recipe_file, whole), check=True, capture_output=True, timeout=240, text=True
    )
    for moment in MOMENTS:
        killed_at(command(recipe_file, killed), killed, moment)
    actual = subprocess.run(
        command(recipe_file, killed), check=True, capture_output=True, timeout=240, text=True
    )

    assert without_cost(actual.stdout) == without_cost(expected.stdout)
    pointers = [
        {str(p.relative_to(root)) for p in root.rglob("shared.json")} for root in (killed, whole)
    ]
    assert pointers[0] == pointers[1]
    assert len(pointers[0]) == 11
    assert not list(killed.rglob(".tmp-*"))
