"""Which stages of a run are finished, begun or missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cream.errors import RunError
from cream.report.summary import model_folders
from cream.runs.files import read_json, read_yaml
from cream.runs.store import BEGUN, DONE, RECIPE


def run_status(root: Path) -> list[dict[str, Any]]:
    """One entry per stage the recipe asks for, in running order.

    Returns:
        ``stage``, ``state`` (``finished``, ``begun``, ``missing``), ``seconds`` (None unless
        finished) and ``parts`` (whole parts on disk).

    Raises:
        RunError: `root` holds no run.
    """
    if not (root / RECIPE).exists():
        raise RunError(f"{root} holds no run (no {RECIPE})")
    recipe = read_yaml(root / RECIPE)
    names = _expected(root, recipe["iterations"])
    if recipe["data"].get("test") is None:
        names = [name for name in names if not name.endswith("/evaluate")]
    return [_stage(root, name) for name in names]


def _expected(root: Path, iterations: int) -> list[str]:
    names = ["data/seed", *(f"data/prompts-{t}" for t in range(1, iterations + 1)), "data/test"]
    names += ["seed-model/evaluate", "sft/train", "sft/evaluate"]
    for folder in model_folders(iterations)[2:]:
        # Which columns a method needs is the loop's knowledge: those are shown that were begun.
        scores = sorted(p.name for p in (root / folder / "score").glob("*") if p.is_dir())
        names += [f"{folder}/sample", *(f"{folder}/score/{name}" for name in scores)]
        names += [f"{folder}/{stage}" for stage in ("matrix", "pair", "train", "evaluate")]
    return names


def _stage(root: Path, name: str) -> dict[str, Any]:
    folder = root / name
    done = (folder / DONE).exists()
    return {
        "stage": name,
        "state": "finished" if done else "begun" if (folder / BEGUN).exists() else "missing",
        "seconds": read_json(folder / DONE)["seconds"] if done else None,
        "parts": len(list(folder.glob("part-*.parquet"))),
    }
