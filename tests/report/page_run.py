"""A run directory with everything a page shows, made without a model: as many prompts as asked.

Scores are drawn, pairs are made by the real pair stage, and every text is the caller's choice, so
that pages can be tested with what no model would write.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hand_made_run import STAGES, TRAINED, spec_of, write_model

from cream.data.snapshot import prompts_to_table
from cream.loop.pairing import make_pairs
from cream.recipe.load import validate_recipe
from cream.records import SampleSummary
from cream.runs.files import write_json, write_yaml
from cream.runs.plan import StoredPlan
from cream.runs.store import Run
from cream.runs.tables import (
    EVALUATION_SCHEMA,
    completions_to_table,
    matrix_from_tables,
    with_metadata,
)
from cream.types import Completion, FinishReason, Message, Prompt

Text = Callable[[int, int], str]
"""(number of the prompt, number of the completion) -> what the model wrote."""

MODELS = ("M0", "M1")
NOISE = {model: 0.01 for model in MODELS}
TASKS = ("sums", "products")
FOLDERS = {"M0": "seed-model", "M1": "sft", "M2": "iteration-1"}


def recipe_values(name: str = "made", **changes: Any) -> dict[str, Any]:
    source = {"sources": [{"source": "file", "path": "x.jsonl", "verifier": "exact_match"}]}
    values = {
        "name": name,
        "iterations": 1,
        "seed": 3,
        "method": {"name": "cream"},
        "data": {"seed": source, "prompts": {"per_iteration": 8, **source}, "test": source},
        **changes,
    }
    return validate_recipe(values, source="test").model_dump(mode="json")


def plain(prompt: int, completion: int) -> str:
    return f"answer {completion} to question {prompt}"


def prompts_named(kind: str, count: int, tasks: Sequence[str]) -> list[Prompt]:
    return [
        Prompt(
            f"{kind}{n:06d}",
            (Message("user", f"Question {n} of {kind}?"),),
            tasks[n % len(tasks)],
            str(n),
        )
        for n in range(count)
    ]


def matrix_table(prompts: Sequence[Prompt], text: Text, per_prompt: int, seed: int) -> pa.Table:
    """Completions 0 and 1 of every prompt are copies; the last one is right in every other."""
    rng = np.random.default_rng(seed)
    completions = [
        Completion(
            prompt_id=prompt.prompt_id,
            completion_id=f"{prompt.prompt_id}-{k}",
            token_ids=(n % 1000, max(k, 1), 2),
            text=text(n, max(k, 1)),
            finish_reason=FinishReason.STOP,
            seed=k,
        )
        for n, prompt in enumerate(prompts)
        for k in range(per_prompt)
    ]
    table = completions_to_table(completions)
    last = [
        k == per_prompt - 1 and n % 2 == 0 for n in range(len(prompts)) for k in range(per_prompt)
    ]
    columns: dict[str, Any] = {"num_tokens": pa.array([3] * len(completions), pa.int32())}
    group = np.arange(len(completions)) // per_prompt * per_prompt
    first = np.maximum(np.arange(len(completions)), group + 1)  # a copy has its first one's scores
    for model in MODELS:
        columns[f"logps_{model}"] = (-10 * rng.random(len(completions)))[first]
    columns["verifier"] = np.asarray(last, dtype=np.float64)
    columns["extracted"] = [None if not right else "42" for right in last]
    for name, column in columns.items():
        table = table.append_column(name, pa.array(column))
    return with_metadata(table, {"noise": NOISE})


def evaluation(prompts: Sequence[Prompt], text: Text, right: Callable[[int], bool]) -> pa.Table:
    rows = [
        {
            "prompt_id": prompt.prompt_id,
            "task": prompt.task,
            "index": index,
            "text": text(n, index + 1),
            "finish_reason": "stop",
            "num_tokens": 4,
            "correct": right(n) if index == -1 else n % 3 == 0,
            "partial_credit": float(right(n)),
            "extracted": None,
        }
        for n, prompt in enumerate(prompts)
        for index in (-1, 0, 1)
    ]
    return pa.Table.from_pylist(rows, schema=EVALUATION_SCHEMA)


def finish(run: Run, name: str, summary: dict[str, Any], *tables: pa.Table, **inputs: Any) -> None:
    stage = run.stage(spec_of(name), inputs)
    stage.begin()
    for index, table in enumerate(tables):
        stage.write_part(index, table, 0.0)
    stage.finish(summary, 1.5)


def train(run: Run, name: str, lines: Sequence[dict[str, Any]], warnings: Sequence[str]) -> None:
    stage = run.stage(spec_of(name), {})
    stage.begin()
    text = "".join(json.dumps({"stage": name, **line}) + "\n" for line in lines)
    (stage.folder / "metrics.jsonl").write_text(text, encoding="utf-8")
    write_model(stage)
    summary = TRAINED.model_copy(update={"steps": len(lines), "warnings": list(warnings)})
    stage.finish(summary.as_json(), 2.0)


def write_page_run(
    root: Path,
    *,
    prompts: int = 8,
    test: int = 6,
    per_prompt: int = 4,
    text: Text = plain,
    tasks: Sequence[str] = TASKS,
    recipe: dict[str, Any] | None = None,
    warnings: Sequence[str] = (),
) -> Path:
    """One finished iteration of `cream`; M1 is right on even test prompts, M2 on the first half."""
    run = Run(root)
    values = recipe or recipe_values()
    write_yaml(root / "recipe.yaml", values)
    parts = {1: validate_recipe(values, source="test").method.parts(1)}
    stages = tuple(spec_of(name) for name in STAGES if not name.startswith("iteration-2"))
    plan = StoredPlan(stages=stages, parts=parts)
    write_json(root / "plan.json", plan.model_dump(mode="json"))
    asked, tested = prompts_named("p", prompts, tasks), prompts_named("t", test, tasks)
    finish(run, "data/prompts-1", {"prompts": prompts}, prompts_to_table(asked))
    baseline = {task: {"answer": "0", "accuracy": 0.1, "n": test // len(tasks)} for task in tasks}
    finish(
        run, "data/test", {"prompts": test, "constant_baseline": baseline}, prompts_to_table(tested)
    )
    rights: dict[str, Callable[[int], bool]] = {
        "M0": lambda n: False,
        "M1": lambda n: n % 2 == 0,
        "M2": lambda n: n < test / 2,
    }
    for model, folder in FOLDERS.items():
        answers = evaluation(tested, lambda n, k: text(n, k), rights[model])
        finish(run, f"{folder}/evaluate", {}, answers)
    train(run, "sft/train", [{"step": n + 1, "loss": 3 / (n + 1)} for n in range(10)], ())
    _iteration(run, values, asked, text, per_prompt)
    steps = [{"step": n + 1, "loss": 0.7, "rewards/margins": n / 10} for n in range(10)]
    train(run, "iteration-1/train", steps, warnings)
    made = {
        "cream": "0",
        "python": "3",
        "platform": "x",
        "cpu_count": 1,
        "packages": {"numpy": "2"},
    }
    write_json(root / "manifest.json", {"command": ["cream", "run", "x.yaml"], "environment": made})
    return root


def _iteration(
    run: Run, recipe: dict[str, Any], prompts: Sequence[Prompt], text: Text, per_prompt: int
) -> None:
    half = len(prompts) // 2
    tables = [
        matrix_table(part, lambda n, k, start=start: text(n + start, k), per_prompt, start)
        for start, part in ((0, prompts[:half]), (half, prompts[half:]))
    ]
    tokens = 3 * per_prompt * len(prompts)
    sampled = SampleSummary(
        engine="torch",
        engine_reason="",
        completions=per_prompt * len(prompts),
        tokens=tokens,
        truncated=0,
        distinct=(per_prompt - 1) * len(prompts),
        duplicate_rate=1 / per_prompt,
        distinct_2=0.5,
        distinct_2_completions=per_prompt * len(prompts),
    )
    finish(run, "iteration-1/sample", sampled.as_json())
    lengths = [table.select(["num_tokens"]) for table in tables]
    finish(run, "iteration-1/score/M1", {"noise": 0.01}, *lengths)
    finish(run, "iteration-1/matrix", {"columns": list(MODELS)}, *tables)
    parts = validate_recipe(recipe, source="test").method.parts(1)
    stated = parts.model_dump(mode="json", exclude={"objective", "prompts"})
    stage = run.stage(spec_of("iteration-1/pair"), {"parts": stated, "report_consistency": True})
    stage.begin()
    matrix = matrix_from_tables(tables, MODELS, ("verifier",))
    summary = make_pairs(stage.folder, matrix, parts, 1, seed=0, report_consistency=True)
    stage.finish(summary.as_json(), 0.1)
