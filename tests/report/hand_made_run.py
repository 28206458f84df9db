"""A run directory written by hand: three evaluated models and one paired iteration, no model."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from cream.pair_records import Consistency, PairAccuracy, PairSummary
from cream.recipe.methods.cream import CreamMethod
from cream.records import SampleSummary, Share, StageSpec, TrainSummary
from cream.runs.files import write_json, write_yaml
from cream.runs.plan import StoredPlan
from cream.runs.store import Run, Stage
from cream.runs.tables import EVALUATION_SCHEMA
from cream.types import Tally

TASKS = {"p1": "sums", "p2": "sums", "p3": "[red]", "p4": "[red]"}
"""Test prompts with their tasks; one task is named like a colour of the terminal library."""

GREEDY = {
    "seed-model": {"p1": True, "p2": False, "p3": False, "p4": False},
    "sft": {"p1": True, "p2": False, "p3": True, "p4": False},
    "iteration-1": {"p1": True, "p2": True, "p3": True, "p4": False},
}
"""Who answered what rightly at temperature 0."""

SAMPLES = {"p1": [True, True], "p2": [True, False], "p3": [False, False], "p4": [False, True]}
"""Two samples per prompt, the same for every model."""

SAMPLED = SampleSummary(
    engine="torch",
    engine_reason="",
    completions=40,
    tokens=100,
    truncated=0,
    distinct=40,
    duplicate_rate=0.0,
    distinct_2=None,
    distinct_2_completions=40,
)

TRAINED = TrainSummary(
    steps=1,
    tally=Tally(8, {"trained": 8}),
    precision="float32",
    layout=None,
    learning_rate_scale=1.0,
    skipped=None,
    warnings=[],
    last_step={},
)

PAIR_SUMMARY = PairSummary(
    reward="implicit(M1)",
    compared="mean_likelihood(M1), mean_likelihood(M0)",
    compared_picks_pairs=False,
    consistency=Consistency(
        rate=0.625,
        low=0.5,
        high=0.75,
        n=9,
        tau_mean=0.25,
        tau_std=0.5,
        share_below_half=0.25,
        undefined={"single": 1},
    ),
    consistency_in_loss=0.625,
    margin_fixed_point=None,
    mean_gap=1.0,
    mean_weight=1.0,
    length_alpha=None,
    tally=Tally(10, {"paired": 7, "tied": 2, "single": 1, "unscored": 0}),
    pair_tally=Tally(7, {"kept": 7}),
    pair_accuracy=PairAccuracy(n=4, accuracy=0.75, low=0.3, high=0.95, counts={}),
    chosen_right=Share(share=0.5, low=0.2, high=0.8, n=6),
    consistency_auroc=None,
    reliability=None,
    loss_consistency_auroc=None,
    witnesses={},
    chosen_from=None,
    rejected_from=None,
    kl_to_seed_per_token=None,
    kl_to_previous_per_token=None,
    noise={},
    completions=40,
    distinct=40,
    truncated=0,
    mean_completion_tokens=2.0,
    chosen_tokens=2.0,
    rejected_tokens=2.0,
)

RECIPE: dict[str, Any] = {
    "name": "hand-made",
    "seed": 3,
    "iterations": 2,
    "method": {"name": "cream"},
    "data": {"test": {"sources": []}},
}


STAGES = (
    "data/prompts-1",
    "data/prompts-2",
    "data/test",
    "data/seed",
    "seed-model/evaluate",
    "sft/train",
    "sft/evaluate",
    *(
        f"iteration-{t}/{stage}"
        for t in (1, 2)
        for stage in ("sample", "score/M1", "matrix", "pair", "train", "evaluate")
    ),
)


def evaluation_rows(folder: str) -> list[dict[str, Any]]:
    """Greedy answers, then samples; each prompt's number of tokens is its digit."""
    answers = [(key, -1, right) for key, right in GREEDY[folder].items()]
    answers += [
        (key, k, right) for key, rights in SAMPLES.items() for k, right in enumerate(rights)
    ]
    return [
        {
            "prompt_id": key,
            "task": TASKS[key],
            "index": index,
            "text": "",
            "finish_reason": "stop",
            "num_tokens": int(key[1]),
            "correct": right,
            "partial_credit": 1.0 if right else 0.5,
            "extracted": None,
        }
        for key, index, right in answers
    ]


def spec_of(name: str) -> StageSpec:
    """What a stage of a hand-made run does, from the name that it has in a real one."""
    folder, _, last = name.rpartition("/")
    t = int(name.partition("-")[2][0]) if name.startswith("iteration-") else 0
    told: dict[str, Any] = {"name": name, "label": name, "t": t}
    if folder == "data":
        kind = {"seed": "freeze_seed"}.get(last, "freeze_prompts")
        return StageSpec(kind=kind, **told)  # type: ignore[arg-type]
    if folder.endswith("/score"):
        source = f"{folder.removesuffix('/score')}/sample"
        return StageSpec(kind="score", model=last, inputs=(source,), source=folder, **told)
    evaluated = {"seed-model": "M0", "sft": "M1"}.get(folder, f"M{t + 1}")
    match last:
        case "evaluate":
            told |= {"inputs": ("data/test",), "source": "test"}
            return StageSpec(kind="evaluate", model=evaluated, **told)
        case "sample":
            told |= {"inputs": (f"data/prompts-{t}",), "source": folder}
            return StageSpec(kind="sample", model=f"M{t}", origin="policy", **told)
        case "train" if t:
            inputs = (f"{folder}/pair", f"{folder}/matrix")
            return StageSpec(kind="train", model=f"M{t}", result=evaluated, inputs=inputs, **told)
        case "train":
            result = "M1" if folder == "sft" else folder.rpartition("/")[2]
            part = "policy" if folder == "sft" else result
            return StageSpec(kind="fine_tune", model="M0", result=result, seed_part=part, **told)
        case "matrix":
            return StageSpec(kind="matrix", inputs=(f"{folder}/sample",), **told)
        case _:
            return StageSpec(kind="pair", inputs=(f"{folder}/matrix",), **told)


def plan_of(names: Iterable[str], iterations: int = 0) -> StoredPlan:
    """The plan of a hand-made run: these stages, and `cream` in each iteration."""
    parts = {t: CreamMethod().parts(t) for t in range(1, iterations + 1)}
    return StoredPlan(stages=tuple(map(spec_of, names)), parts=parts)


def write_model(stage: Stage) -> None:
    """What stands for the model of a training stage: a stage without its model is not finished."""
    if stage.model_folder is not None:
        write_json(stage.model_folder / "config.json", {})


def finish(run: Run, name: str, summary: dict[str, Any], seconds: float, *tables: pa.Table) -> None:
    stage = run.stage(spec_of(name), {})
    stage.begin()
    for index, table in enumerate(tables):
        stage.write_part(index, table, 0.0)
    write_model(stage)
    stage.finish(summary, seconds)


def write_run(root: Path) -> Path:
    """Write it: iteration 1 finished, iteration 2 begun sampling."""
    run = Run(root)
    write_yaml(root / "recipe.yaml", RECIPE)
    write_json(root / "plan.json", plan_of(STAGES, 2).model_dump(mode="json"))
    finish(run, "data/seed", {}, 0.0)
    baseline = {
        "sums": {"answer": "7", "accuracy": 0.5, "n": 2},
        "[red]": {"answer": "[b]", "accuracy": 0.0, "n": 2},
    }
    finish(run, "data/test", {"prompts": 4, "constant_baseline": baseline}, 0.0)
    seconds = {"seed-model": 1.0, "sft": 2.0, "iteration-1": 4.0}
    for folder in GREEDY:
        if folder == "sft":
            finish(run, "sft/train", TRAINED.as_json(), 10.0)
        if folder == "iteration-1":
            finish(run, "iteration-1/sample", SAMPLED.as_json(), 20.0)
            finish(run, "iteration-1/score/M1", {"noise": 0.0}, 0.5)
            finish(run, "iteration-1/pair", PAIR_SUMMARY.as_json(), 0.25)
        # Two parts, rows in another order for the last model: joins are by id.
        rows = evaluation_rows(folder)
        rows = rows[::-1] if folder == "iteration-1" else rows
        parts = [pa.Table.from_pylist(p, schema=EVALUATION_SCHEMA) for p in (rows[:5], rows[5:])]
        finish(run, f"{folder}/evaluate", {}, seconds[folder], *parts)
    run.stage(spec_of("iteration-2/sample"), {}).begin()
    run.stage(spec_of("iteration-2/sample"), {}).write_part(0, pa.table({"x": [1]}), 0.0)
    return root
