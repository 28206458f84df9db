"""The installed command as a process: what only a process shows (signals, the libraries' bars)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

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
    said = "interrupted; give the same command again to go on from here: "
    assert err.splitlines()[-1] == f"{said}cream run {recipe_file}"
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


def test_where_ray_cannot_be_imported_only_cluster_ray_is_refused(recipe_file: Path):
    """One error for `cluster: ray`, before anything is written; then the run is whole without."""
    blocked = "import sys; sys.modules['ray'] = None; from cream.cli import main; main()"

    def run(*changes: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", blocked, "run", str(recipe_file), "--json", "--quiet", *changes],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    refused = run("--set", "cluster=ray")
    (said,) = refused.stderr.splitlines()
    assert said.endswith(
        "cluster: ray needs Ray, which is not installed; install Cream's extra `ray` on every "
        "node, or set cluster: local"
    )
    assert (refused.returncode, refused.stdout) == (2, "")
    assert not (recipe_file.parent / "run" / "data").exists()
    local = run("--set", "cluster=local")
    assert local.returncode == 0, local.stderr
    assert [row["model"] for row in json.loads(local.stdout)["models"]] == ["M0", "M1", "M2", "M3"]


def test_ctrl_c_in_a_part_keeps_the_part():
    """One Ctrl-C in a part of 0.4 s: it is kept, the next is not begun. Two: it is lost."""
    code = (
        "import os, signal, sys, time\n"
        "from rich.console import Console\n"
        "from cream.cli.console import Interrupted, stopping_gently\n"
        "from cream.cli.console import ConsoleProgress\n"
        "progress = ConsoleProgress(Console(stderr=True, soft_wrap=True))\n"
        "try:\n"
        "    with stopping_gently(progress.stop_when_kept):\n"
        "        progress.start('sample', 4, 'prompts')\n"
        "        for part in range(4):\n"
        "            print('begun', part, flush=True)\n"
        "            time.sleep(0.4)\n"
        "            print('kept', part, flush=True)\n"
        "            progress.advance(1)\n"
        "except Interrupted as stop:\n"
        "    print(stop)\n"
    )
    for presses, kept in ((1, ["kept 0"]), (2, [])):
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "begun 0\n"
        for _ in range(presses):
            process.send_signal(signal.SIGINT)
            time.sleep(0.1)
        out, err = process.communicate(timeout=60)
        assert out.splitlines()[:-1] == kept
        assert out.splitlines()[-1].startswith("give the same command again to go on from here")
        assert err.count("Ctrl-C again stops at once") == 1


def test_a_part_that_takes_too_long_is_given_up():
    code = (
        "import time\n"
        "import cream.cli.console as interruption\n"
        "interruption.PATIENCE_SECONDS = 0.2\n"
        "try:\n"
        "    with interruption.stopping_gently(lambda seconds: True):\n"
        "        print('begun', flush=True)\n"
        "        time.sleep(30)\n"
        "except interruption.Interrupted:\n"
        "    print('left')\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=20)[0] == "left\n"
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize("arguments", [["plan", "RECIPE"], ["run", "RECIPE"]])
def test_a_wrong_recipe_is_told_before_torch_is_imported(arguments: list[str], tmp_path: Path):
    path = tmp_path / "wrong.yaml"
    path.write_text("name: x\niterations: 0\n", encoding="utf-8")
    code = (
        "import sys\n"
        f"sys.argv = ['cream', *{[a.replace('RECIPE', str(path)) for a in arguments]!r}]\n"
        "from cream.cli import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert done.returncode == 2, done.stderr
    assert done.stdout == "False\n"
    assert "iterations" in done.stderr
