"""SIGKILL at random moments, over every smoke recipe and a comparison: is the result the same?

    python tests/faults/killing.py --kills 200

Each attempt is a fork of this process (which has everything imported and computes nothing itself),
killed after a random part of the time that an untouched run takes; the next one goes on. A run that
came to its end must hold what the untouched one holds, records and weights, byte by byte.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch
from tqdm import tqdm

from cream.comparison.members import make_plan, parse_methods
from cream.comparison.running import run_comparison
from cream.recipe import load_recipe
from run_contents import contents
from tiny_run import Silence, run_whole, tiny_values, write_inputs

SMOKE = Path(__file__).parents[2] / "recipes" / "smoke"
MODES = (*sorted(path.stem for path in SMOKE.glob("*.yaml")), "compare")
MAY_DIFFER = ("begun.json", ".lock")
"""Deleted after the mark of its stage was written, so it may be left; and what holds no content."""
HANGS_AFTER, HUNG = 600.0, -1000
"""Seconds that an attempt which nobody kills may take, and what it ended with if it took more."""
Work = Callable[[Path], Any]


@dataclass
class Killed:
    """What became of the attempts of a mode."""

    mode: str
    kills: int = 0
    ends: int = 0
    """Runs that came to their end after kills."""
    seconds: float = 0.0
    wrong: str = ""


def work_of(mode: str, inputs: Path) -> Work:
    """What runs, or goes on with, a mode in a folder."""

    def smoke(root: Path) -> None:
        overrides = [
            f"model.name={inputs / 'model'}",
            f"run_dir={root}",
            "training.compute.save_state_every_minutes=0",
            "sft.compute.save_state_every_minutes=0",
        ]
        run_whole(load_recipe(SMOKE / f"{mode}.yaml", overrides), SMOKE)

    def compare(root: Path) -> None:
        import yaml

        path = inputs / "compared.yaml"
        if not path.exists():
            path.write_text(yaml.safe_dump({**tiny_values(inputs), "iterations": 1}))
        plan = make_plan(path, [], parse_methods("cream, srlm"), seeds=[1, 2], root=root)
        run_comparison(plan, Silence(), base_dir=inputs, cache_dir=inputs / "no-cache")

    return compare if mode == "compare" else smoke


def attempt(work: Work, root: Path, seconds: float | None = None) -> int | None:
    """Run in a fork; None if it was killed after so many seconds, else its exit code."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            torch.set_num_threads(1)
            # tqdm's lock is a semaphore that forks share: who is killed with it holds up the rest.
            tqdm.set_lock(threading.RLock())
            work(root)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    until = time.monotonic() + (HANGS_AFTER if seconds is None else seconds)
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None if seconds is not None else HUNG


def held(root: Path) -> dict[str, Any]:
    """Everything in a folder that a kill must not change."""
    found = {k: v for k, v in contents(root).items() if Path(k).name not in MAY_DIFFER}
    weights = sorted(root.rglob("*.safetensors"))
    return found | {str(p.relative_to(root)): p.read_bytes() for p in weights}


def kill_mode(mode: str, kills: int, folder: Path, inputs: Path, rng: random.Random) -> Killed:
    """Kill a mode so many times, and compare whatever came to an end."""
    told, work = Killed(mode), work_of(mode, inputs)
    begun = time.monotonic()
    assert attempt(work, folder / "untouched") == 0
    whole = time.monotonic() - begun
    truth = held(folder / "untouched")
    while told.kills < kills and not told.wrong:
        root = folder / f"run-{told.ends}"
        code = None
        while code is None:
            last = told.kills >= kills
            code = attempt(work, root, None if last else rng.uniform(0, whole))
            told.kills += code is None
        if code != 0:
            told.wrong = "hung" if code == HUNG else f"ended with {code}"
        elif held(root) != truth:
            mine = held(root)
            keys = [k for k in {**truth, **mine} if truth.get(k) != mine.get(k)]
            told.wrong = f"differs in {', '.join(sorted(keys)[:5])}"
        told.ends += 1
        if not told.wrong:
            shutil.rmtree(root)
    told.seconds = time.monotonic() - begun
    return told


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kills", type=int, default=200, help="per mode")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--modes", default=",".join(MODES))
    given = parser.parse_args()
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    wrong = False
    try:
        inputs = write_inputs(folder / "inputs")
        for mode in given.modes.split(","):
            (folder / mode).mkdir()
            rng = random.Random(f"{given.seed} {mode}")
            told = kill_mode(mode, given.kills, folder / mode, inputs, rng)
            print(
                f"{told.mode:20} {told.kills:>5} kills, {told.ends:>4} ends, "
                f"{told.seconds:6.0f} s  {told.wrong or 'equal'}",
                flush=True,
            )
            wrong = wrong or bool(told.wrong)
            if not told.wrong:
                shutil.rmtree(folder / mode)
    finally:
        if not wrong:
            shutil.rmtree(folder)
        else:
            print(f"kept in {folder}")
    raise SystemExit(wrong)


if __name__ == "__main__":
    main()
