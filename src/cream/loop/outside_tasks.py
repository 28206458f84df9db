"""Measuring one model on tasks of lm-eval-harness, and keeping what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cream.engines.harness import HarnessSettings, check_harness, run_harness
from cream.loop.models import open_models
from cream.protocols import Progress
from cream.recipe.model import ModelConfig
from cream.runs.files import write_json
from cream.runs.store import RECIPE


def evaluate_outside(
    model: ModelConfig,
    tasks: Sequence[str],
    settings: HarnessSettings,
    *,
    include: Path | None,
    out: Path | None,
    cache_dir: Path,
    progress: Progress,
) -> dict[str, Any]:
    """Run tasks of the harness on a model and store the result.

    Args:
        model: Which model, and its template.
        tasks: Names of tasks.
        settings: Of the harness.
        include: Folder with further task files, or None.
        out: JSON file to write. None: beside the models of the run that the model is of
            (``RUN/lm-eval/M2-gsm8k.json``); nothing is written for a model of no run.
        cache_dir: Cream's cache.
        progress: Shows what happens.

    Returns:
        What is stored, JSON values.

    Raises:
        CreamError: The model cannot be used; see also `cream.engines.harness.run_harness`.
    """
    check_harness()
    shelf, _ = open_models(model, Path(), cache_dir)
    loaded = shelf.for_inference("M0")
    progress.start(f"lm-eval {', '.join(tasks)} on {model.name}", 0, "examples")
    found = run_harness(loaded, shelf.tokenizer, tasks, settings, include=include)
    result = {
        "model": model.name,
        "harness": found["harness"],
        "settings": {**asdict(settings), "dtype": str(shelf.compute_dtype).removeprefix("torch.")},
        "tasks": found["tasks"],
    }
    target = out or _in_run(shelf.seed_folder, tasks)
    if target is not None:
        write_json(target, result)
    progress.finish(f"stored in {target}" if target else "not stored; --out FILE stores it")
    return result


def _in_run(folder: Path, tasks: Sequence[str]) -> Path | None:
    """Place for results of a model in a run's ``models`` folder; None for any other model."""
    root = folder.parent.parent
    if folder.parent.name != "models" or not (root / RECIPE).is_file():
        return None
    return root / "lm-eval" / f"{folder.name}-{'-'.join(tasks)}.json"
