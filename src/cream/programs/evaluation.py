"""Measuring one model outside a run: on test prompts, or on tasks of lm-eval-harness."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from cream.data.dataset import load_test
from cream.data.verifiers import PromptVerifier, constant_baseline
from cream.engines.engine import choose_engine, open_engine
from cream.engines.harness import HarnessSettings, check_harness, run_harness
from cream.loop.context import encode_prompts, sampling_params
from cream.loop.stage_runner import batched
from cream.preflight.models import open_models
from cream.protocols import Progress
from cream.recipe.data import TestData
from cream.recipe.engine import AnyEngine
from cream.recipe.model import ModelConfig
from cream.recipe.recipe import EvaluationConfig
from cream.recipe.trajectory import Trajectory
from cream.records import ConstantAnswer
from cream.runs.files import write_json
from cream.runs.plan import RECIPE
from cream.runs.seeds import derive_seed
from cream.stages.evaluate import evaluate
from cream.stages.segment import LastAnswer
from cream.types import Prompt


def evaluate_model(
    model: ModelConfig,
    test: TestData,
    settings: EvaluationConfig,
    engine: AnyEngine,
    *,
    seed: int,
    tasks: Sequence[str],
    trajectory: Trajectory | None = None,
    base_dir: Path,
    cache_dir: Path,
    progress: Progress,
) -> tuple[pa.Table, dict[str, ConstantAnswer]]:
    """Answer and verify test prompts with one model; nothing is written.

    Args:
        model: Which model, and its template.
        test: Test data of a recipe.
        settings: Limits, number of samples.
        engine: What samples.
        seed: Decides generated prompts and samples.
        tasks: Only these tasks; all if empty.
        trajectory: How completions are cut, where the last answer within them counts.
        base_dir: Folder that relative data paths start from.
        cache_dir: Cream's cache.
        progress: Shows what happens.

    Returns:
        Evaluation records (as a run keeps them), and the constant-answer baseline per task.
    """
    prompts = load_test(test, seed=seed, base_dir=base_dir, tasks=tasks)
    checkpoints, encoder = open_models(model, base_dir, cache_dir)
    encoded = encode_prompts(
        prompts, encoder, checkpoints.context_length, settings.max_completion_tokens
    )
    params = sampling_params(settings, encoder)
    verifier = PromptVerifier()
    checked_by = LastAnswer(verifier, trajectory.phrases.grammar) if trajectory else verifier
    choice = choose_engine(engine, checkpoints.device)
    opened = open_engine(choice, checkpoints)
    progress.note(f"completions are sampled by {choice}")
    progress.start(f"evaluate {model.name}", len(prompts), "prompts")
    rows: list[dict[str, Any]] = []
    with closing(checkpoints):
        for shard in batched(encoded, settings.prompts_per_shard):
            rows += [
                asdict(row)
                for row in evaluate(
                    shard,
                    opened.sampler("M0"),
                    checked_by,
                    params,
                    num_samples=settings.num_samples,
                    seed_of=lambda key, k: derive_seed(seed, "evaluate", key, k),
                    decode=encoder.decode,
                )
            ]
            progress.advance(len(shard))
    progress.finish()
    return pa.Table.from_pylist(rows), _baseline(prompts, verifier)


def _baseline(prompts: Sequence[Prompt], verifier: PromptVerifier) -> dict[str, ConstantAnswer]:
    return {
        task: ConstantAnswer(answer=c.answer, accuracy=c.accuracy, n=c.num_prompts)
        for task, c in constant_baseline(prompts, verifier).items()
    }


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
    checkpoints, _ = open_models(model, Path(), cache_dir)
    loaded = checkpoints.for_inference("M0")
    progress.start(f"lm-eval {', '.join(tasks)} on {model.name}", 0, "examples")
    found = run_harness(loaded, checkpoints.tokenizer, tasks, settings, include=include)
    result = {
        "model": model.name,
        "harness": found["harness"],
        "settings": {
            **asdict(settings),
            "dtype": str(checkpoints.compute_dtype).removeprefix("torch."),
        },
        "tasks": found["tasks"],
    }
    target = out or _in_run(checkpoints.seed_folder, tasks)
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
