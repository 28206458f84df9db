"""Which stages of a run are finished, begun or missing."""

from __future__ import annotations

from collections.abc import Mapping
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
    drafted = recipe["method"]["name"] == "temporal"
    names = [*_before_the_loop(root, recipe), *_iterations(root, recipe["iterations"], drafted)]
    if recipe["data"].get("test") is None:
        names = [name for name in names if not name.endswith("/evaluate")]
    return [_stage(root, name) for name in names]


def _before_the_loop(root: Path, recipe: Mapping[str, Any]) -> list[str]:
    witnesses, calibrated = recipe.get("witnesses") or {}, bool(recipe.get("calibration"))
    iterations = range(1, recipe["iterations"] + 1)
    names = ["data/seed", *(f"data/prompts-{t}" for t in iterations), "data/test"]
    names += ["data/seed-parts"] if witnesses or calibrated else []
    names += ["seed-model/evaluate", "sft/train", "sft/evaluate"]
    names += [f"witnesses/{name}/train" for name in witnesses]
    return names + (_scored(root, "calibration") if calibrated else [])


def _iterations(root: Path, iterations: int, drafted: bool) -> list[str]:
    names: list[str] = []
    for folder in model_folders(iterations)[2:]:
        names += _scored(root, folder) if not drafted else _drafted(root, folder)
        names += [f"{folder}/{stage}" for stage in ("pair", "train", "evaluate")]
    return names


def _scored(root: Path, folder: str) -> list[str]:
    # Which columns a method needs is the loop's knowledge: those are shown that were begun.
    return [*_answers(root, folder), f"{folder}/matrix"]


def _drafted(root: Path, folder: str) -> list[str]:
    """Stages up to the matrix of an iteration that trains a future model first."""
    names = _answers(root, folder) + _answers(root, f"{folder}/past")
    names += [f"{folder}/draft/{stage}" for stage in ("matrix", "pair", "train")]
    return [*names, *_answers(root, f"{folder}/future"), f"{folder}/matrix"]


def _answers(root: Path, folder: str) -> list[str]:
    scores = sorted(p.name for p in (root / folder / "score").glob("*") if p.is_dir())
    return [f"{folder}/sample", *(f"{folder}/score/{n}" for n in scores)]


def _stage(root: Path, name: str) -> dict[str, Any]:
    folder = root / name
    done = (folder / DONE).exists()
    return {
        "stage": name,
        "state": "finished" if done else "begun" if (folder / BEGUN).exists() else "missing",
        "seconds": read_json(folder / DONE)["seconds"] if done else None,
        "parts": len(list(folder.glob("part-*.parquet"))),
    }
