"""A tiny real run: a random model, three small files, and a recipe that takes seconds.

The task is the parity of a sum ("3+4=" -> "1"). A few steps of fine-tuning teach the answer's form
and leave its value to chance, so groups hold right and wrong answers and every method finds pairs.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from cream.loop.iterations import run_recipe
from cream.preflight.opening import open_context
from cream.protocols import Progress
from cream.recipe import Recipe
from cream.recipe.load import apply_overrides, validate_recipe
from cream.report.summary import summarise_run
from cream.runs.files import read_sealed, write_json, write_sealed
from cream.runs.integrity import mark
from cream.runs.store import Run
from cream.testing import tiny_model_folder


def write_jsonl(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    """A file of rows."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


class Silence:
    """A `Progress` that shows nothing."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Ignore."""

    def advance(self, count: int, live: Any = None) -> None:
        """Ignore."""

    def advance_to(self, done: int, total: int, live: Any = None) -> None:
        """Ignore."""

    def finish(self, result: str = "") -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


def write_inputs(folder: Path) -> Path:
    """Write ``model``, ``seed.jsonl``, ``prompts.jsonl`` and ``test.jsonl``."""
    tiny_model_folder(folder / "model")
    sums = [(a, b) for b in range(6) for a in range(10)]
    rows = [{"prompt": f"{a}+{b}=", "answer": str((a + b) % 2)} for a, b in sums]
    seed = [{"prompt": row["prompt"], "completion": row["answer"]} for row in rows[:16]]
    for name, part in {"seed": seed, "prompts": rows[16:48], "test": rows[48:]}.items():
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def tiny_values(inputs: Path) -> dict[str, Any]:
    """The tiny recipe as plain values: two iterations, every stage in at least two parts."""
    optimiser = {"learning_rate": 1.0e-2, "batch_size": 8}
    compute = {"precision": "float32", "save_state_every_minutes": 0}
    return {
        "name": "tiny",
        "seed": 1,
        "iterations": 2,
        # So few prompts leave C in doubt: by default such a stage is skipped, and at C = 1/2 it
        # takes no step.
        "method": {
            "name": "cream",
            "below_half": "allow",
            "pairing": {"truncated": "keep"},
            "objective": {"set_level_action": "train"},
        },
        "model": {
            "name": str(inputs / "model"),
            "device": "cpu",
            "compute_dtype": "float32",
        },
        "data": {
            "seed": {"sources": [{"source": "file", "path": "seed.jsonl"}]},
            "prompts": {
                "per_iteration": 8,
                "sources": [{"source": "file", "path": "prompts.jsonl", "verifier": "exact_match"}],
            },
            "test": {
                "sources": [{"source": "file", "path": "test.jsonl", "verifier": "exact_match"}]
            },
        },
        "sft": {"epochs": 8, "optimiser": optimiser, "compute": compute},
        "sampling": {
            "num_completions": 4,
            "temperature": 1.0,
            "top_p": 1.0,
            "max_completion_tokens": 4,
            "prompts_per_shard": 4,
        },
        "training": {
            "epochs": 2,
            "optimiser": {"learning_rate": 1.0e-3, "batch_size": 4},
            "compute": compute,
        },
        "evaluation": {"max_completion_tokens": 4, "num_samples": 2, "prompts_per_shard": 6},
    }


def tiny_recipe(inputs: Path, run_dir: Path, *overrides: str) -> Recipe:
    """The tiny recipe for a run directory, with ``a.b=c`` changes."""
    values = {**tiny_values(inputs), "run_dir": str(run_dir)}
    if any(text.startswith(("method=", "method.name=")) for text in overrides):
        # Another method has options of its own.
        values["method"] = {"name": "cream", "pairing": {"truncated": "keep"}}
    values = apply_overrides(values, overrides)
    return validate_recipe(values, source="tiny recipe")


def restamped(folder: Path) -> None:
    """Have a stage record fit its files again, after a test has changed one on purpose."""
    record = read_sealed(folder / "stage.json")
    record["files"] = {name: mark(folder / name).model_dump() for name in record["files"]}
    write_sealed(folder / "stage.json", record)


def run_whole(recipe: Recipe, inputs: Path, progress: Progress | None = None) -> Path:
    """Run a recipe from wherever its directory stands, as `cream run` does; returns the folder."""
    place = Run(Path(recipe.folder))
    with place.locked():
        context = open_context(
            recipe,
            place,
            progress or Silence(),
            base_dir=inputs,
            cache_dir=inputs / "no-cache",
        )
        try:
            run_recipe(context)
        finally:
            context.close()
        write_json(place.root / "summary.json", summarise_run(place.root).as_json())
    return place.root
