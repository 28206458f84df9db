"""Wall time of `cream pair --from` on a synthetic score matrix, one process per method.

Usage: python scripts/check_pair_speed.py [PROMPTS] [METHOD ...]

Writes a run of PROMPTS (default 100000) prompts with 8 completions each to a temporary folder and
times the whole command, interpreter start included.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from cream.recipe.load import parse_recipe
from cream.runs.store import Run
from cream.runs.tables import with_metadata

MEMBERS = 8
RECIPE = """
name: speed
iterations: 2
data:
  seed: {sources: [{source: file, path: seed.jsonl}]}
  prompts: {per_iteration: 3, sources: [{source: file, path: prompts.jsonl}]}
"""
METHODS = {
    "srlm": "{name: srlm}",
    "cream": "{name: cream}",
    "cream_sample": "{name: cream_sample, level: shrunken}",
    "cream_pair": "{name: cream_pair}",
    "cream_reference": "{name: cream_reference}",
    "fixed_smoothing": "{name: fixed_smoothing, consistency: 0.8}",
    "dice": "{name: dice}",
    "scpo": "{name: scpo, pairing: {rule: majority_vote, min_share: 0.0}}",
    "spa": "{name: spa}",
    "oracle": "{name: oracle}",
    "all_pairs": "{name: cream, pairing: {rule: all_pairs}}",
}


def main() -> None:
    """Write the run, time each method, print a table."""
    prompts = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    names = sys.argv[2:] or list(METHODS)
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        write_run(run, prompts)
        print(f"{prompts} prompts x {MEMBERS} completions; seconds of the whole command")
        for name in names:
            print(f"{name:16s} {timed(run, METHODS[name]):6.2f}", flush=True)


def timed(run: Path, method: str) -> float:
    """Wall time of one `cream pair --from`."""
    cream = str(Path(sys.executable).with_name("cream"))
    command = [cream, "pair", "--from", str(run), "-t", "2"]
    command += ["--set", f"method={method}"]
    start = time.perf_counter()
    subprocess.run(
        command, check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    return time.perf_counter() - start


def write_run(root: Path, prompts: int) -> None:
    """A run directory with nothing but a recipe and the score matrix of iteration 2."""
    root.mkdir()
    recipe = parse_recipe(RECIPE)
    run = Run(root)
    with run.locked():
        run.claim(recipe.model_dump(mode="json"), may_change=lambda _: False)
    stage = run.stage("iteration-2/matrix", {})
    stage.begin()
    rng = np.random.default_rng(0)
    per_part = 128 * 8
    for index, first in enumerate(range(0, prompts, per_part)):
        stage.write_part(index, part(rng, first, min(per_part, prompts - first)), 0.0)
    stage.finish({"columns": ["M2", "M1", "M0"]}, 0.0)


def part(rng: np.random.Generator, first: int, prompts: int) -> pa.Table:
    """A part of the matrix, with ties, copies, truncated completions and missing verdicts."""
    count = prompts * MEMBERS
    ids = [f"{i:032x}" for i in range(first, first + prompts)]
    tokens = rng.integers(5, 400, count)
    truth = rng.normal(0, 10, count)
    columns = {
        "prompt_id": np.repeat(ids, MEMBERS),
        "completion_id": [f"{i}-{k}" for i in ids for k in range(MEMBERS)],
        "ids_hash": rng.integers(0, 40, count),
        "finish_reason": np.where(rng.random(count) < 0.02, "length", "stop"),
        "num_tokens": tokens.astype(np.int32),
        "verifier": (truth > 5).astype(float),
        "extracted": rng.integers(0, 6, count).astype(str),
    }
    for name in ("M0", "M1", "M2"):
        columns[f"logps_{name}"] = -tokens * 0.5 + truth + rng.normal(0, 5, count)
    return with_metadata(pa.table(columns), {"noise": dict.fromkeys(("M0", "M1", "M2"), 1e-5)})


if __name__ == "__main__":
    main()
