"""20,000 random inputs to everything that reads: a value or one error, never a traceback or a hang.

`python tests/faults/fuzzing.py --inputs 1000000` is the long form. In a process of its own: the
checks of array shapes that the tests run under cost many times what is read.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fuzzing import make_targets

ROOT = Path(__file__).parents[2]
INPUTS = os.environ.get("CREAM_FUZZ_INPUTS", "20000")


@pytest.mark.slow
@pytest.mark.skipif("CREAM_FAULTS" not in os.environ, reason="minutes: `make test-faults` runs it")
def test_random_inputs_are_read_or_refused(tmp_path: Path):
    search = os.pathsep.join((str(ROOT / "src"), str(ROOT / "tests")))
    command = [sys.executable, str(ROOT / "tests/faults/fuzzing.py"), "--inputs", INPUTS]
    done = subprocess.run(
        [*command, "--seed", "1", "--keep", str(tmp_path / "wrong")],
        env={**os.environ, "PYTHONPATH": search},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert ", 0 wrong," in done.stdout, done.stdout + done.stderr[-2000:]
    assert done.returncode == 0, done.stderr[-2000:]


def test_every_target_is_tried(tmp_path: Path):
    targets = make_targets(tmp_path)

    names = [target.name for target in targets]
    assert len(set(names)) == len(names) == 17
    assert 0.9 < sum(target.share for target in targets) <= 1
