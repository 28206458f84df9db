"""A long run of a tiny model: how much memory each stage takes, and how soon it finds its place.

    python tests/faults/soak.py --prompts 10000
    python tests/faults/soak.py --prompts 125000     # a million completions

Eight completions a prompt, one iteration. Memory is the most that the process held during a stage.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import torch

from tiny_run import run_whole, tiny_recipe, write_inputs


class Meter:
    """A `Progress` that says what each stage took."""

    def __init__(self, quiet: bool = False) -> None:
        self.stage, self.begun, self.quiet = "", time.monotonic(), quiet
        self.stages = 0

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage, self.begun = stage, time.monotonic()
        self.stages += 1
        Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        pass

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        pass

    def finish(self, result: str = "") -> None:
        seconds = time.monotonic() - self.begun
        if not self.quiet:
            print(f"{self.stage:45} {seconds:8.1f} s {_peak():7,} MiB", flush=True)

    def note(self, text: str) -> None:
        pass


def _peak() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) >> 10
    raise AssertionError("no VmHWM")


def main() -> None:
    """Run, and find the place of what has run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prompts", type=int, default=10_000)
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    try:
        inputs = write_inputs(folder / "inputs")
        with (inputs / "prompts.jsonl").open("w", encoding="utf-8") as stream:
            for n in range(given.prompts):
                a, b = divmod(n + 10_000, 1000)  # the test prompts have one digit
                stream.write(json.dumps({"prompt": f"{a}+{b}=", "answer": str((a + b) % 2)}) + "\n")
        recipe = tiny_recipe(
            inputs,
            folder / "run",
            "iterations=1",
            f"data.prompts.per_iteration={given.prompts}",
            "sampling.num_completions=8",
            "sampling.prompts_per_shard=128",
            "training.epochs=1",
            "training.optimiser.batch_size=512",
            "training.compute.save_state_every_minutes=10",
        )
        begun = time.monotonic()
        run_whole(recipe, inputs, Meter())
        print(f"{given.prompts:,} prompts x 8: {time.monotonic() - begun:.0f} s")
        size = sum(p.stat().st_size for p in (folder / "run").rglob("*") if p.is_file())
        meter, begun = Meter(quiet=True), time.monotonic()
        if os.fork() == 0:  # a process that has looked at nothing yet
            begun = time.monotonic()
            run_whole(recipe, inputs, meter)
            print(f"finds its place in {time.monotonic() - begun:.1f} s ({size / 1e6:.0f} MB)")
            os._exit(0)
        os.wait()
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
