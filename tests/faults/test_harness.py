"""The short form of `make test-faults`: a few kills, flips and failures of each kind."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest
from failing import CALLS, fail_calls, fill_disks
from flips import Flips, told
from killing import kill_mode

KILLS = int(os.environ.get("CREAM_KILLS", "3"))
FLIPS = int(os.environ.get("CREAM_FLIPS", "150"))

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("mode", ["cream_cross", "temporal", "compare"])
def test_a_run_killed_at_random_moments_ends_as_an_untouched_one(
    mode: str, tmp_path: Path, tiny_inputs: Path
):
    found = kill_mode(mode, KILLS, tmp_path, tiny_inputs, random.Random(1))

    assert (found.kills, found.wrong) == (KILLS, "")
    assert found.ends > 0


def test_a_flipped_bit_is_named_or_changes_nothing(tmp_path: Path):
    flips, rng = Flips(tmp_path), random.Random(1)
    for _ in range(FLIPS):
        flips.flip(rng)

    assert not flips.wrong, told(flips.outcomes) + "\n" + "\n".join(flips.wrong[:3])
    assert sum(n for (_, outcome), n in flips.outcomes.items() if outcome == "named") > FLIPS // 2


@pytest.mark.parametrize("call", CALLS)
def test_a_failing_call_is_one_error_and_the_run_goes_on(
    call: str, tmp_path: Path, tiny_inputs: Path
):
    found = fail_calls("srlm", call, tmp_path, tiny_inputs, every=41)

    assert found.tried > 0
    assert found.wrong == ""


def test_a_full_disk_is_one_error_and_the_run_goes_on(tmp_path: Path, tiny_inputs: Path):
    if os.geteuid() != 0 or not shutil.which("mount"):
        pytest.skip("a disk of its own needs root and mount")
    try:
        found = fill_disks("srlm", tmp_path, tiny_inputs, step=400)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no memory disk can be mounted here: {error.stderr}")

    assert found.tried > 0
    assert found.wrong == ""
