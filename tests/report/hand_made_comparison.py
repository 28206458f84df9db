"""A comparison's folder written by hand: two methods, two seeds, no model.

Per seed: 4 test prompts of its own; M0, M1 and the samples are made by `base` and shared with
`new`; pairs and M2 are each method's own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
from hand_made_run import (
    PAIR_SUMMARY,
    SAMPLED,
    STAGES,
    TRAINED,
    plan_of,
    spec_of,
    write_model,
)

from cream.pair_records import PairAccuracy
from cream.runs.files import write_json, write_yaml
from cream.runs.plan import StoredPlan
from cream.runs.sharing import POINTER
from cream.runs.store import Run
from cream.runs.tables import EVALUATION_SCHEMA
from cream.types import Tally

RIGHT = {
    ("base", 0): {"M0": "", "M1": "12", "M2": ""},
    ("new", 0): {"M0": "", "M1": "12", "M2": "1234"},
    ("base", 1): {"M0": "", "M1": "12", "M2": "1234"},
    ("new", 1): {"M0": "", "M1": "12", "M2": "1234"},
}
"""(method, seed) -> model -> which of the prompts 1, 2, 3, 4 it answers rightly."""
FOLDERS = {"M0": "seed-model", "M1": "sft", "M2": "iteration-1"}
SECONDS = {"sft/train": 10.0, "iteration-1/sample": 2.0}
"""Of stages that are shared."""
TRAINING_SECONDS = {"base": 4.0, "new": 6.0}
RATES = {("base", 0): 0.5, ("base", 1): 0.75, ("new", 0): 0.625, ("new", 1): None}
DECIDABLE = {("base", 0): (3, 4), ("base", 1): (1, 4), ("new", 0): (4, 4), ("new", 1): (0, 0)}
"""Right ones of the decidable pairs."""


def pair_summary(method: str, seed: int) -> dict[str, Any]:
    rate = RATES[method, seed]
    right, n = DECIDABLE[method, seed]
    measured = PAIR_SUMMARY.consistency
    assert measured is not None
    consistency = None if rate is None else measured.model_copy(update={"rate": rate})
    accuracy = right / n if n else None
    return PAIR_SUMMARY.model_copy(
        update={
            "consistency": consistency,
            "consistency_in_loss": None,
            "tally": Tally(10, {"paired": 8, "tied": 2}),
            "pair_accuracy": PairAccuracy(n=n, accuracy=accuracy, low=None, high=None, counts={}),
            "kl_to_seed_per_token": 0.25 + seed,
            "mean_completion_tokens": 2.5,
            "chosen_tokens": 3.0,
            "rejected_tokens": 2.0,
        }
    ).as_json()


def finish(
    run: Path,
    name: str,
    inputs: Any,
    summary: Any,
    seconds: float,
    *,
    shared: str = "",
    **columns: Any,
) -> None:
    """Write a finished stage; `shared` names the run that it was taken from."""
    stage = Run(run).stage(spec_of(name), {"inputs": inputs})
    stage.begin()
    if columns:
        stage.write_part(0, pa.table(columns), 0.0)
    write_model(stage)
    stage.finish(summary, seconds)
    if shared:
        write_json(stage.folder / POINTER, {"run": shared})


def evaluation(seed: int, right: str) -> dict[str, Any]:
    """Greedy answers of one token each, and one sample per prompt, right alike."""
    rows = [
        {
            "prompt_id": f"{seed}-{number}",
            "task": "sums",
            "index": index,
            "text": "",
            "finish_reason": "stop",
            "num_tokens": 1,
            "correct": number in right,
            "partial_credit": 0.0,
            "extracted": None,
        }
        for number in "1234"
        for index in (-1, 0)
    ]
    table = pa.Table.from_pylist(rows, schema=EVALUATION_SCHEMA)
    return {name: table[name] for name in table.column_names}


def write_member(run: Path, method: str, seed: int) -> None:
    write_yaml(
        run / "recipe.yaml",
        {
            "name": f"hand-made-{method}-seed-{seed}",
            "seed": seed,
            "iterations": 1,
            "method": {"name": "srlm"},
            "data": {"test": {"sources": []}},
            "training": {"epochs": 2},
        },
    )
    names = [name for name in STAGES if not name.startswith("iteration-2")]
    plan = plan_of(names, 1)
    stages = [s.model_copy(update={"epochs": 2}) if s.kind == "train" else s for s in plan.stages]
    write_json(run / "plan.json", StoredPlan(stages=tuple(stages), parts=plan.parts).as_json())
    taken = "../there" if method == "new" else ""
    finish(run, "sft/train", seed, TRAINED.as_json(), SECONDS["sft/train"], shared=taken)
    finish(
        run,
        "iteration-1/sample",
        seed,
        SAMPLED.as_json(),
        SECONDS["iteration-1/sample"],
        shared=taken,
    )
    finish(
        run, "iteration-1/score/M1", seed, {"noise": 0.0}, 0.0, shared=taken, num_tokens=[60, 40]
    )
    finish(run, "iteration-1/pair", method, pair_summary(method, seed), 0.0)
    finish(run, "iteration-1/train", method, TRAINED.as_json(), TRAINING_SECONDS[method])
    for model, right in RIGHT[method, seed].items():
        own = method if model == "M2" else seed
        finish(
            run,
            f"{FOLDERS[model]}/evaluate",
            own,
            {},
            0.0,
            shared="" if model == "M2" else taken,
            **evaluation(seed, right),
        )


def write_comparison(root: Path) -> Path:
    """Write it whole."""
    for method, seed in RIGHT:
        write_member(root / method / f"seed-{seed}", method, seed)
    plan = {
        "name": "hand-made",
        "baseline": "base",
        "seeds": [0, 1],
        "methods": [{"name": name, "folder": name} for name in ("base", "new")],
    }
    write_yaml(root / "comparison.yaml", plan)
    return root
