"""A run directory to one summary: accuracy per model, consistency and pairs per iteration, time.

Every figure is computed from stored records and carries its n; intervals are 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cream.algorithms.statistics import (
    Interval,
    mean_at_k,
    paired_difference,
    pass_at_k,
    wilson_interval,
)
from cream.errors import RunError
from cream.runs.files import read_json, read_table, read_yaml
from cream.runs.store import DONE, RECIPE

COLUMNS = ("prompt_id", "task", "index", "correct", "partial_credit", "num_tokens")
"""What a summary reads of an evaluation; the texts stay on disk."""


def summarise_run(root: Path) -> dict[str, Any]:
    """Everything worth telling about a run, as JSON values; unfinished stages are left out.

    Raises:
        RunError: `root` holds no run.
    """
    if not (root / RECIPE).exists():
        raise RunError(f"{root} holds no run (no {RECIPE})")
    recipe = read_yaml(root / RECIPE)
    evaluated = {
        f"M{m}": read_evaluation(root / folder / "evaluate")
        for m, folder in enumerate(model_folders(recipe["iterations"]))
        if (root / folder / "evaluate" / DONE).exists()
    }
    return {
        "name": recipe["name"],
        "method": recipe["method"]["name"],
        "seed": recipe["seed"],
        "iterations_planned": recipe["iterations"],
        "models": [
            {
                "model": name,
                **summarise_evaluation(table),
                "gain": _gain(table, evaluated.get("M1")) if name not in ("M0", "M1") else None,
            }
            for name, table in evaluated.items()
        ],
        "baseline": _baseline(root),
        "iterations": [
            {"iteration": t, **read_json(root / f"iteration-{t}" / "pair" / DONE)["summary"]}
            for t in range(1, recipe["iterations"] + 1)
            if (root / f"iteration-{t}" / "pair" / DONE).exists()
        ],
        "seconds": stage_seconds(root),
    }


def model_folders(iterations: int) -> list[str]:
    """Folder of the stage that made each model, M0 first."""
    return ["seed-model", "sft", *(f"iteration-{t}" for t in range(1, iterations + 1))]


def stage_seconds(root: Path) -> dict[str, float]:
    """Seconds each finished stage took, over all attempts, in running order."""
    rounds = [p for p in root.glob("iteration-*") if p.name.removeprefix("iteration-").isdigit()]
    rounds.sort(key=lambda path: int(path.name.removeprefix("iteration-")))
    found = [
        path
        for folder in [
            root / name for name in ("data", "seed-model", "sft", "witnesses", "calibration")
        ]
        + rounds
        for path in sorted(folder.rglob(DONE), key=lambda path: path.stat().st_mtime_ns)
    ]
    return {str(path.parent.relative_to(root)): read_json(path)["seconds"] for path in found}


def summarise_evaluation(table: pa.Table) -> dict[str, Any]:
    """Accuracy of one model per task and overall, from its evaluation records.

    Greedy accuracy has a Wilson interval; mean@k and pass@k are over the k samples per prompt
    (pass@k unbiased, Chen et al. 2021, arXiv 2107.03374).
    """
    names = np.asarray(table["task"].to_pylist(), dtype=object)
    per_task = {
        task: _accuracy(table.filter(pa.array(names == task))) for task in sorted(set(names))
    }
    return {"overall": _accuracy(table), "tasks": per_task}


def read_evaluation(folder: Path) -> pa.Table:
    """The records of one evaluation, `COLUMNS` of them."""
    paths = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables(read_table(path, list(COLUMNS)) for path in paths)


def greedy_answers(table: pa.Table) -> pa.Table:
    """The rows of greedy answers, one per prompt; the others are samples."""
    return table.filter(pa.array(table["index"].to_numpy() == -1))


def _gain(table: pa.Table, baseline: pa.Table | None) -> dict[str, float] | None:
    """Paired difference of greedy accuracy against M1 on the same prompts, joined by id."""
    if baseline is None:
        return None
    before = dict(
        zip(
            greedy_answers(baseline)["prompt_id"].to_pylist(),
            greedy_answers(baseline)["correct"].to_pylist(),
            strict=True,
        )
    )
    after = greedy_answers(table)
    treatment = np.asarray(after["correct"].to_pylist(), dtype=np.float64)
    control = np.asarray([before[key] for key in after["prompt_id"].to_pylist()], dtype=np.float64)
    interval = paired_difference(treatment, control, np.random.default_rng(0))
    assert isinstance(interval, Interval)
    return {"difference": interval.estimate, "low": interval.low, "high": interval.high}


def _accuracy(table: pa.Table) -> dict[str, Any]:
    greedy = greedy_answers(table)
    right = int(np.sum(greedy["correct"].to_numpy(zero_copy_only=False)))
    interval = wilson_interval(right, greedy.num_rows)
    assert isinstance(interval, Interval)  # a stored evaluation has answers
    result: dict[str, Any] = {
        "right": right,
        "n": greedy.num_rows,
        "accuracy": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "partial_credit": float(np.mean(greedy["partial_credit"].to_numpy())),
        "mean_tokens": float(np.mean(greedy["num_tokens"].to_numpy())),
    }
    samples = table.filter(pa.array(table["index"].to_numpy() >= 0))
    if samples.num_rows:
        counts = samples.group_by("prompt_id").aggregate([("correct", "sum"), ("correct", "count")])
        correct = counts["correct_sum"].to_numpy().astype(np.int64)
        k = int(counts["correct_count"][0].as_py())
        totals = counts["correct_count"].to_numpy().astype(np.int64)
        result["k"] = k
        result["mean_at_k"] = float(np.mean(mean_at_k(correct, totals)))
        result["pass_at_k"] = float(np.mean(pass_at_k(correct, totals, k=k)))
    return result


def _baseline(root: Path) -> dict[str, Any]:
    done = root / "data" / "test" / DONE
    return read_json(done)["summary"].get("constant_baseline", {}) if done.exists() else {}


def overall_baseline(baseline: Mapping[str, Any]) -> tuple[float, int] | None:
    """Accuracy of the best constant answer per task, over all tasks, and its n."""
    if not baseline:
        return None
    total = sum(entry["n"] for entry in baseline.values())
    return sum(entry["accuracy"] * entry["n"] for entry in baseline.values()) / total, total
