"""Outside benchmarks: lm-eval-harness (EleutherAI) on a model that is already in memory.

The harness tokenises, batches and scores by its own rules; that is its point. Handed over is a
model that Cream has loaded (safetensors only), and its results are brought into one shape. Task
files are configuration that can name Python code: only folders that the user names are read.
"""

from __future__ import annotations

import importlib.util
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from cream.errors import DataError, DependencyError


@dataclass(frozen=True, slots=True)
class HarnessSettings:
    """What decides the harness's results beside model and task."""

    limit: int | None
    """At most this many examples per task, from its start; None for all."""
    fewshot: int | None
    """Worked examples in the prompt; None as the task says."""
    chat_template: bool
    """Put every question into the model's chat template."""
    seed: int
    batch_size: int


def check_harness() -> None:
    """Find out whether lm-eval is there, without importing it.

    Raises:
        DependencyError: It is not.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise DependencyError(
            "--lm-eval needs the package lm-eval, which is not installed; install it with "
            "pip install 'cream-align[lm-eval]'"
        )


def run_harness(
    model: Any,
    tokenizer: Any,
    tasks: Sequence[str],
    settings: HarnessSettings,
    *,
    include: Path | None,
) -> dict[str, Any]:
    """Run tasks of the harness.

    Args:
        model: Causal LM on its device.
        tokenizer: Its tokenizer.
        tasks: Names known to the harness, or of task files in `include`.
        settings: See there.
        include: Folder with task files (YAML), or None.

    Returns:
        ``harness`` (version) and ``tasks``: per task ``n`` examples asked ``of`` those it has, and
        its metrics with their standard errors.

    Raises:
        DependencyError: lm-eval is not installed.
        DataError: A task is unknown, `include` does not exist, or a task's data cannot be had.
    """
    check_harness()
    if include is not None and not include.is_dir():
        raise DataError(f"--lm-eval-include {include} is no folder; give one with task files")
    with _quiet():
        from lm_eval.evaluator import simple_evaluate
        from lm_eval.models import huggingface
        from lm_eval.tasks import TaskManager

        HFLM: Any = huggingface.HFLM  # a metaclass hides its signature from type checkers
        manager = TaskManager(include_path=str(include) if include else None)
        unknown = [name for name in tasks if not manager.match_tasks([name])]
        if unknown:
            raise DataError(
                f"lm-eval {metadata.version('lm-eval')} knows no task {', '.join(unknown)}; "
                "`lm-eval ls tasks` lists what it has, --lm-eval-include adds a folder of your own"
            )
        found = simple_evaluate(
            HFLM(pretrained=model, tokenizer=tokenizer, batch_size=settings.batch_size),
            tasks=list(tasks),
            task_manager=manager,
            num_fewshot=settings.fewshot,
            limit=settings.limit,
            apply_chat_template=settings.chat_template,
            log_samples=False,
            random_seed=settings.seed,
            numpy_random_seed=settings.seed,
            torch_random_seed=settings.seed,
            fewshot_random_seed=settings.seed,
        )
    assert found is not None  # None only on processes of a distributed run that are not the first
    return {"harness": metadata.version("lm-eval"), "tasks": _tasks(dict(found))}


def _tasks(found: Mapping[str, Any]) -> list[dict[str, Any]]:
    counts, versions = found["n-samples"], found["versions"]
    return [
        {
            "task": name,
            "version": None if versions.get(name) is None else str(versions[name]),
            "n": int(counts[name]["effective"]),
            "of": int(counts[name]["original"]),
            "metrics": _metrics(values),
        }
        for name, values in found["results"].items()
        if name in counts  # groups have no examples of their own
    ]


def _metrics(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """``acc,none`` and ``acc_stderr,none`` as one entry; a standard error it lacks is None."""
    entries = []
    for key, value in values.items():
        metric, comma, name = key.partition(",")
        if not comma or metric.endswith("_stderr") or not isinstance(value, (int, float)):
            continue
        stderr = values.get(f"{metric}_stderr,{name}")
        entries.append(
            {
                "metric": metric,
                "filter": name,
                "value": float(value),
                "stderr": float(stderr) if isinstance(stderr, (int, float)) else None,
            }
        )
    return entries


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the harness's own log and the warnings of its many dependencies off the terminal."""
    logger = logging.getLogger("lm_eval")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(before)
