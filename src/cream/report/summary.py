"""A run directory to one summary: accuracy per model, consistency and pairs per iteration, time.

Every figure is computed from stored records and carries its n; intervals are 95 %.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from cream.algorithms.statistics import (
    Interval,
    mean_at_k,
    paired_difference,
    pass_at_k,
    wilson_interval,
)
from cream.errors import RunError
from cream.records import ConstantAnswer, Count, PairSummary, Rate, Record
from cream.runs.files import read_json, read_table, read_yaml
from cream.runs.store import DONE, RECIPE

COLUMNS = ("prompt_id", "task", "index", "correct", "partial_credit", "num_tokens")
"""What a summary reads of an evaluation; the texts stay on disk."""


Change = Annotated[float, Field(ge=-1, le=1)]
"""A difference of two shares."""


class Accuracy(Record):
    """Greedy accuracy on some prompts with its 95 % Wilson interval."""

    right: Count
    n: Count
    accuracy: Rate
    low: Rate
    high: Rate
    partial_credit: Rate
    """Mean of the tasks' own graded scores."""
    mean_tokens: float
    """Mean length of greedy answers."""
    k: Count | None = None
    """Samples per prompt; null without samples, as what follows."""
    mean_at_k: Rate | None = None
    pass_at_k: Rate | None = None
    """Unbiased (Chen et al. 2021, arXiv 2107.03374)."""


class Evaluation(Record):
    """Accuracy of one model."""

    overall: Accuracy
    tasks: dict[str, Accuracy]


class Difference(Record):
    """Of two accuracies on the same prompts, with its 95 % bootstrap interval."""

    difference: Change
    low: Change
    high: Change


class ModelResult(Evaluation):
    """Accuracy of a model of a run."""

    model: str
    gain: Difference | None
    """Paired difference to M1; null for M0 and M1, or where M1 was not evaluated."""


class IterationSummary(PairSummary):
    """Pairs of an iteration of a run."""

    iteration: Annotated[int, Field(ge=1)]


class RunSummary(Record):
    """Results of a run; also its summary.json. Unfinished stages are left out."""

    name: str
    method: str
    seed: Count
    iterations_planned: Annotated[int, Field(ge=1)]
    models: list[ModelResult]
    """Those evaluated, M0 first."""
    baseline: dict[str, ConstantAnswer]
    """Best constant answer per task of the test prompts."""
    iterations: list[IterationSummary]
    """Those with pairs."""
    seconds: dict[str, Annotated[float, Field(ge=0)]]
    """Per finished stage, over all attempts, in running order."""


def summarise_run(root: Path) -> RunSummary:
    """Everything worth telling about a run; unfinished stages are left out.

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
    paired = {t: root / f"iteration-{t}" / "pair" for t in range(1, recipe["iterations"] + 1)}
    return RunSummary(
        name=recipe["name"],
        method=recipe["method"]["name"],
        seed=recipe["seed"],
        iterations_planned=recipe["iterations"],
        models=[_model(name, table, evaluated.get("M1")) for name, table in evaluated.items()],
        baseline=_baseline(root),
        iterations=[
            IterationSummary.read({"iteration": t, **read_json(folder / DONE)["summary"]}, folder)
            for t, folder in paired.items()
            if (folder / DONE).exists()
        ],
        seconds=stage_seconds(root),
    )


def _model(name: str, table: pa.Table, first: pa.Table | None) -> ModelResult:
    gain = _gain(table, first) if name not in ("M0", "M1") else None
    return ModelResult(model=name, gain=gain, **dict(summarise_evaluation(table)))


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


def summarise_evaluation(table: pa.Table) -> Evaluation:
    """Accuracy of one model per task and overall, from its evaluation records.

    Greedy accuracy has a Wilson interval; mean@k and pass@k are over the k samples per prompt
    (pass@k unbiased, Chen et al. 2021, arXiv 2107.03374).
    """
    names = np.asarray(table["task"].to_pylist(), dtype=object)
    per_task = {
        task: _accuracy(table.filter(pa.array(names == task))) for task in sorted(set(names))
    }
    return Evaluation(overall=_accuracy(table), tasks=per_task)


def read_evaluation(folder: Path) -> pa.Table:
    """The records of one evaluation, `COLUMNS` of them."""
    paths = sorted(folder.glob("part-*.parquet"))
    return pa.concat_tables(read_table(path, list(COLUMNS)) for path in paths)


def greedy_answers(table: pa.Table) -> pa.Table:
    """The rows of greedy answers, one per prompt; the others are samples."""
    return table.filter(pa.array(table["index"].to_numpy() == -1))


def _gain(table: pa.Table, baseline: pa.Table | None) -> Difference | None:
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
    return Difference(difference=interval.estimate, low=interval.low, high=interval.high)


def _accuracy(table: pa.Table) -> Accuracy:
    greedy = greedy_answers(table)
    right = int(np.sum(greedy["correct"].to_numpy(zero_copy_only=False)))
    interval = wilson_interval(right, greedy.num_rows)
    assert isinstance(interval, Interval)  # a stored evaluation has answers
    return Accuracy(
        right=right,
        n=greedy.num_rows,
        accuracy=interval.estimate,
        low=interval.low,
        high=interval.high,
        partial_credit=float(np.mean(greedy["partial_credit"].to_numpy())),
        mean_tokens=float(np.mean(greedy["num_tokens"].to_numpy())),
        **_of_samples(table.filter(pa.array(table["index"].to_numpy() >= 0))),
    )


def _of_samples(samples: pa.Table) -> dict[str, Any]:
    if not samples.num_rows:
        return {}
    counts = samples.group_by("prompt_id").aggregate([("correct", "sum"), ("correct", "count")])
    correct = counts["correct_sum"].to_numpy().astype(np.int64)
    totals = counts["correct_count"].to_numpy().astype(np.int64)
    k = int(totals[0])
    return {
        "k": k,
        "mean_at_k": float(np.mean(mean_at_k(correct, totals))),
        "pass_at_k": float(np.mean(pass_at_k(correct, totals, k=k))),
    }


def _baseline(root: Path) -> dict[str, ConstantAnswer]:
    done = root / "data" / "test" / DONE
    found = read_json(done)["summary"].get("constant_baseline", {}) if done.exists() else {}
    return {task: ConstantAnswer.read(entry, done) for task, entry in found.items()}


def overall_baseline(baseline: Mapping[str, ConstantAnswer]) -> float | None:
    """Accuracy of the best constant answer per task, over all tasks."""
    total = sum(entry.n for entry in baseline.values())
    right = sum(entry.accuracy * entry.n for entry in baseline.values())
    return right / total if total else None
