"""A comparison's folder to plain data: methods side by side over seeds, from stored records only.

Figures of one model are means over seeds of the figure of each seed. Intervals are 95 %, and draw
both seeds and test prompts again (`cream.algorithms.two_level`); differences are paired by seed and
prompt. Members that have not come so far are left out, and each figure names the seeds it rests on.
The page, the tables and the JSON of `cream compare` show what `summarise_comparison` returns; its
schema is ``cream/schemas/compare.json``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cream.algorithms.statistics import Interval, wilson_interval
from cream.algorithms.two_level import two_level_interval
from cream.errors import RunError
from cream.report.comparison_cost import comparison_cost
from cream.report.status import run_status
from cream.report.summary import greedy_answers, model_folders, read_evaluation, summarise_run
from cream.runs.files import read_yaml
from cream.runs.sharing import COMPARISON
from cream.runs.store import DONE, RECIPE

Values = Mapping[int, Mapping[str, float]]
"""Seed -> prompt id -> value."""


@dataclass(frozen=True, slots=True)
class MemberRecords:
    """What is read of one member."""

    seed: int
    summary: Mapping[str, Any]
    """As `summarise_run` gives it."""
    right: Mapping[str, Mapping[str, float]]
    """Model -> prompt id -> 1 if the greedy answer is right, else 0."""


def summarise_comparison(root: Path) -> dict[str, Any]:
    """Everything worth telling about a comparison, as JSON values.

    Raises:
        RunError: `root` holds no comparison, or two members of one seed have other test prompts.
    """
    if not (root / COMPARISON).exists():
        raise RunError(f"{root} holds no comparison (no {COMPARISON})")
    plan = read_yaml(root / COMPARISON)
    places = {
        method["name"]: {seed: root / method["folder"] / f"seed-{seed}" for seed in plan["seeds"]}
        for method in plan["methods"]
    }
    begun = {
        name: {seed: run for seed, run in runs.items() if (run / RECIPE).exists()}
        for name, runs in places.items()
    }
    records = {
        name: [_read_member(seed, run) for seed, run in runs.items()]
        for name, runs in begun.items()
    }
    control = records[plan["baseline"]]
    costs, total = comparison_cost(begun)
    return {
        "name": plan["name"],
        "baseline": plan["baseline"],
        "seeds": plan["seeds"],
        "members": [
            {
                "method": name,
                "seed": seed,
                "run": str(run.relative_to(root)),
                "finished": (run / RECIPE).exists() and _finished(run),
            }
            for name, runs in places.items()
            for seed, run in runs.items()
        ],
        "methods": [
            {
                "name": name,
                "models": _models(members, None if name == plan["baseline"] else control),
                "iterations": _iterations(members),
                "cost": costs[name],
            }
            for name, members in records.items()
        ],
        "cost": total,
    }


def comparison_runs(root: Path) -> list[Path]:
    """Run directories of a comparison's members that exist, method by method."""
    plan = read_yaml(root / COMPARISON)
    places = [
        root / method["folder"] / f"seed-{seed}"
        for method in plan["methods"]
        for seed in plan["seeds"]
    ]
    return [place for place in places if (place / RECIPE).exists()]


def _finished(run: Path) -> bool:
    return all(stage["state"] == "finished" for stage in run_status(run))


def _read_member(seed: int, run: Path) -> MemberRecords:
    right = {}
    for m, folder in enumerate(model_folders(read_yaml(run / RECIPE)["iterations"])):
        if (run / folder / "evaluate" / DONE).exists():
            table = greedy_answers(read_evaluation(run / folder / "evaluate"))
            correct = map(float, table["correct"].to_pylist())
            right[f"M{m}"] = dict(zip(table["prompt_id"].to_pylist(), correct, strict=True))
    return MemberRecords(seed, summarise_run(run), right)


def _models(
    members: Sequence[MemberRecords], control: Sequence[MemberRecords] | None
) -> list[dict[str, Any]]:
    names = dict.fromkeys(name for member in members for name in member.right)
    return [_model(name, members, control) for name in names]


def _model(
    name: str, members: Sequence[MemberRecords], control: Sequence[MemberRecords] | None
) -> dict[str, Any]:
    """Results of one model of one method over seeds."""
    measured = {member.seed: member.right[name] for member in members if name in member.right}
    first = {member.seed: member.right["M1"] for member in members if "M1" in member.right}
    others = {c.seed: c.right[name] for c in control or () if name in c.right}
    accuracy = _interval(measured)
    rows = [row for m in members for row in m.summary["models"] if row["model"] == name]
    overall = [row["overall"] for row in rows]
    return {
        "model": name,
        "seeds": list(measured),
        "n": accuracy.num_items,
        "accuracy": accuracy.estimate,
        "low": accuracy.low,
        "high": accuracy.high,
        "by_seed": {str(seed): _mean(right.values()) for seed, right in measured.items()},
        "gain": None if name in ("M0", "M1") else _difference(measured, first),
        "difference": _difference(measured, others) if control is not None else None,
        "k": overall[0].get("k"),
        "mean_at_k": _mean(row.get("mean_at_k") for row in overall),
        "pass_at_k": _mean(row.get("pass_at_k") for row in overall),
        "mean_tokens": _mean(row["mean_tokens"] for row in overall),
    }


def _difference(treatment: Values, control: Values) -> dict[str, Any] | None:
    """Paired difference on the seeds that both have; None if there is none."""
    seeds = [seed for seed in treatment if seed in control]
    for seed in seeds:
        if treatment[seed].keys() != control[seed].keys():
            raise RunError(
                f"two members with seed {seed} were tested on different prompts and cannot be "
                "compared; were their runs made from other data?"
            )
    if not seeds:
        return None
    interval = _interval(
        {
            seed: {key: value - control[seed][key] for key, value in treatment[seed].items()}
            for seed in seeds
        }
    )
    return {
        "difference": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "seeds": seeds,
    }


def _interval(values: Values) -> Interval:
    """Over seeds and prompts; a prompt that several seeds have is one prompt."""
    place = {
        key: i for i, key in enumerate(dict.fromkeys(k for row in values.values() for k in row))
    }
    table = np.full((len(values), len(place)), np.nan)
    for row, entries in enumerate(values.values()):
        table[row, [place[key] for key in entries]] = list(entries.values())
    interval = two_level_interval(table, np.random.default_rng(0))
    assert isinstance(interval, Interval)  # a stored evaluation has answers
    return interval


def _iterations(members: Sequence[MemberRecords]) -> list[dict[str, Any]]:
    found: dict[int, dict[int, Mapping[str, Any]]] = {}
    for member in members:
        for row in member.summary["iterations"]:
            found.setdefault(row["iteration"], {})[member.seed] = row
    return [{"iteration": t, **_iteration(found[t])} for t in sorted(found)]


def _iteration(rows: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """The pairs of one iteration of one method over seeds."""

    def over_seeds(read: Callable[[Mapping[str, Any]], float | None]) -> dict[str, Any]:
        by_seed = {str(seed): read(row) for seed, row in rows.items()}
        return {"mean": _mean(by_seed.values()), "by_seed": by_seed}

    return {
        "seeds": list(rows),
        "compared": next(iter(rows.values()))["compared"],
        "consistency": over_seeds(lambda row: row["consistency"] and row["consistency"]["rate"]),
        "consistency_in_loss": over_seeds(lambda row: row["consistency_in_loss"]),
        "pair_accuracy": _pair_accuracy([row["pair_accuracy"] for row in rows.values()]),
        "paired": sum(row["tally"]["parts"].get("paired", 0) for row in rows.values()),
        "prompts": sum(row["tally"]["total"] for row in rows.values()),
        "kl_to_seed_per_token": over_seeds(lambda row: row["kl_to_seed_per_token"]),
        "kl_to_previous_per_token": over_seeds(lambda row: row["kl_to_previous_per_token"]),
        "mean_completion_tokens": over_seeds(lambda row: row["mean_completion_tokens"]),
    }


def _pair_accuracy(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Share of decidable pairs that are right, those of all seeds together."""
    decidable = sum(row["n"] for row in rows)
    right = sum(round(row["accuracy"] * row["n"]) for row in rows if row["n"])
    share = wilson_interval(right, decidable)
    known = isinstance(share, Interval)
    return {
        "n": decidable,
        "accuracy": share.estimate if known else None,
        "low": share.low if known else None,
        "high": share.high if known else None,
    }


def _mean(values: Any) -> float | None:
    present = [float(value) for value in values if value is not None]
    return sum(present) / len(present) if present else None
