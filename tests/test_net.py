"""A few recorded runs come out as they are recorded; `scripts/net.py check` tries all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "tests" / "golden" / "net"
NET = [sys.executable, str(ROOT / "scripts" / "net.py"), "check"]


def check(folder: Path, *names: str) -> subprocess.CompletedProcess[str]:
    only = [word for name in names for word in ("--only", name)]
    # Stages and fingerprints as they are; numbers with room for another processor's rounding.
    command = [*NET, str(folder), *only, "--tolerance", "3e-3", "--lines", "50"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_stages_fingerprints_pairs_and_what_commands_print_are_as_recorded():
    result = check(RECORD, "srlm_judge", "calibrated", "python_future")

    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
def test_what_moved_is_named(tmp_path: Path):
    record = json.loads((RECORD / "srlm_judge.json").read_text(encoding="utf-8"))
    record["fingerprints"]["sft/train"] = "0"
    record["inputs"]["sft/train"]["examples"] = "0"
    record["losses"]["sft/train"][0] *= 1.1
    record["status"]["gone"] = 1
    del record["plan"]["method"]
    (tmp_path / "srlm_judge.json").write_text(json.dumps(record), encoding="utf-8")
    result = check(tmp_path, "srlm_judge")
    lines = [line.strip() for line in result.stdout.splitlines()]

    assert result.returncode == 1
    assert lines[0] == "srlm_judge: 4 differences"
    assert lines[1].startswith(
        ".fingerprints: 1 of 15 moved, first sft/train (changed inputs: exam"
    )
    assert lines[2].startswith(".losses.sft/train[0]: ")
    assert lines[3:5] == [".status.gone: gone", ".plan.method: new"]
