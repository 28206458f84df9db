"""Measuring one model on test prompts, outside a run."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa

from cream.data.dataset import load_test
from cream.data.verifiers import PromptVerifier, constant_baseline
from cream.engines.select import choose_engine
from cream.loop.context import encode_prompts, sampling_params
from cream.loop.models import open_models
from cream.loop.shards import batched
from cream.protocols import Progress
from cream.recipe.data import TestData
from cream.recipe.engine import AnyEngine
from cream.recipe.model import ModelConfig
from cream.recipe.recipe import EvaluationConfig
from cream.runs.seeds import derive_seed
from cream.stages.evaluate import evaluate


def evaluate_model(
    model: ModelConfig,
    test: TestData,
    settings: EvaluationConfig,
    engine: AnyEngine,
    *,
    seed: int,
    tasks: Sequence[str],
    base_dir: Path,
    cache_dir: Path,
    progress: Progress,
) -> tuple[pa.Table, dict[str, Any]]:
    """Answer and verify test prompts with one model; nothing is written.

    Args:
        model: Which model, and its template.
        test: Test data of a recipe.
        settings: Limits, number of samples.
        engine: What samples.
        seed: Decides generated prompts and samples.
        tasks: Only these tasks; all if empty.
        base_dir: Folder that relative data paths start from.
        cache_dir: Cream's cache.
        progress: Shows what happens.

    Returns:
        Evaluation records (as a run keeps them), and the constant-answer baseline per task.

    Raises:
        CreamError: The data, the model or the template cannot be used.
    """
    prompts = load_test(test, seed=seed, base_dir=base_dir, tasks=tasks)
    shelf, encoder = open_models(model, base_dir, cache_dir)
    encoded = encode_prompts(prompts, encoder, shelf.context_length, settings.max_completion_tokens)
    params = sampling_params(settings, encoder)
    verifier = PromptVerifier()
    shelf.engine = choose_engine(engine, shelf.device)
    progress.note(f"completions are sampled by {shelf.engine}")
    progress.start(f"evaluate {model.name}", len(prompts), "prompts")
    rows: list[dict[str, Any]] = []
    with closing(shelf):
        for shard in batched(encoded, settings.prompts_per_shard):
            rows += [
                asdict(row)
                for row in evaluate(
                    shard,
                    shelf.sampler("M0"),
                    verifier,
                    params,
                    num_samples=settings.num_samples,
                    seed_of=lambda key, k: derive_seed(seed, "evaluate", key, k),
                    decode=encoder.decode,
                )
            ]
            progress.advance(len(shard))
    progress.finish()
    baseline = {
        task: {"answer": c.answer, "accuracy": c.accuracy, "n": c.num_prompts}
        for task, c in constant_baseline(prompts, verifier).items()
    }
    return pa.Table.from_pylist(rows), baseline
