"""The installed command as a process: what only a process shows (signals, the libraries' bars)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

CREAM = str(Path(sys.executable).with_name("cream"))


def test_ctrl_c_ends_in_130_and_the_same_command_goes_on(recipe_file: Path):
    """Interrupted in its first stage, then finished quietly: nothing but JSON is printed."""
    root = recipe_file.parent / "run"
    process = subprocess.Popen(
        [CREAM, "run", str(recipe_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (root / "data" / "seed" / "stage.json").exists():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)

    assert process.returncode == 130, err
    assert out == ""
    assert err.splitlines()[-1] == "interrupted; give the same command again to go on from here"
    assert "Traceback" not in err
    again = subprocess.run(
        [CREAM, "run", str(recipe_file), "--json", "--quiet"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert again.returncode == 0, again.stderr
    assert again.stderr == ""
    assert [row["model"] for row in json.loads(again.stdout)["models"]] == ["M0", "M1", "M2", "M3"]
