"""A tiny real run: a random model, three small files, and a recipe that takes seconds.

The task is the parity of a sum ("3+4=" -> "1"). A few steps of fine-tuning teach the answer's form
and leave its value to chance, so groups hold right and wrong answers and every method finds pairs.
"""

from __future__ import annotations

import os

# One thread here and in every process that a test starts, before a library reads it: tiny models on
# two threads cost many times as much, most of all beside a busy core.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from cream.loop.iterations import run_recipe
from cream.preflight.opening import open_context
from cream.protocols import Progress
from cream.recipe import Recipe
from cream.recipe.load import apply_overrides, validate_recipe
from cream.runs.files import write_json
from cream.runs.store import Run
from cream.testing import tiny_model_folder

RecipeMaker = Callable[..., Recipe]
"""(run directory, *"a.b=c" overrides) -> recipe."""


class Silence:
    """A `Progress` that shows nothing."""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Ignore."""

    def advance(self, count: int, live: Any = None) -> None:
        """Ignore."""

    def advance_to(self, done: int, total: int, live: Any = None) -> None:
        """Ignore."""

    def finish(self, result: str = "") -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Undo what a test before did (`cream bench` sets threads); a test that needs two sets them."""
    torch.set_num_threads(1)


@pytest.fixture
def silence() -> Progress:
    """Progress that nobody hears."""
    return Silence()


@pytest.fixture(scope="session")
def tiny_inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with ``model``, ``seed.jsonl``, ``prompts.jsonl`` and ``test.jsonl``."""
    gc.collect()
    gc.freeze()  # a run collects garbage at every change of model: spare it the imported libraries
    folder = tmp_path_factory.mktemp("inputs")
    tiny_model_folder(folder / "model")
    sums = [(a, b) for b in range(6) for a in range(10)]
    rows = [{"prompt": f"{a}+{b}=", "answer": str((a + b) % 2)} for a, b in sums]
    seed = [{"prompt": row["prompt"], "completion": row["answer"]} for row in rows[:16]]
    for name, part in {"seed": seed, "prompts": rows[16:48], "test": rows[48:]}.items():
        text = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def recipe_values(tiny_inputs: Path) -> dict[str, Any]:
    """The tiny recipe as plain values: two iterations, every stage in at least two parts."""
    optimiser = {"learning_rate": 1.0e-2, "batch_size": 8}
    compute = {"precision": "float32", "save_state_every_minutes": 0}
    return {
        "name": "tiny",
        "seed": 1,
        "iterations": 2,
        # So few prompts leave C in doubt: by default such a stage is skipped, and at C = 1/2 it
        # takes no step.
        "method": {
            "name": "cream",
            "below_half": "allow",
            "pairing": {"truncated": "keep"},
            "objective": {"set_level_action": "train"},
        },
        "model": {
            "name": str(tiny_inputs / "model"),
            "device": "cpu",
            "compute_dtype": "float32",
        },
        "data": {
            "seed": {"sources": [{"source": "file", "path": "seed.jsonl"}]},
            "prompts": {
                "per_iteration": 8,
                "sources": [{"source": "file", "path": "prompts.jsonl", "verifier": "exact_match"}],
            },
            "test": {
                "sources": [{"source": "file", "path": "test.jsonl", "verifier": "exact_match"}]
            },
        },
        "sft": {"epochs": 8, "optimiser": optimiser, "compute": compute},
        "sampling": {
            "num_completions": 4,
            "temperature": 1.0,
            "top_p": 1.0,
            "max_completion_tokens": 4,
            "prompts_per_shard": 4,
        },
        "training": {
            "epochs": 2,
            "optimiser": {"learning_rate": 1.0e-3, "batch_size": 4},
            "compute": compute,
        },
        "evaluation": {"max_completion_tokens": 4, "num_samples": 2, "prompts_per_shard": 6},
    }


@pytest.fixture(scope="session")
def tiny_recipe(recipe_values: dict[str, Any]) -> RecipeMaker:
    """Make the tiny recipe for a run directory, with ``a.b=c`` changes."""

    def make(run_dir: Path, *overrides: str) -> Recipe:
        values = apply_overrides({**recipe_values, "run_dir": str(run_dir)}, overrides)
        return validate_recipe(values, source="tiny recipe")

    return make


@pytest.fixture(scope="session")
def run_whole(tiny_inputs: Path) -> Callable[..., Path]:
    """Run a recipe from wherever its directory stands, as `cream run` does; returns the folder."""

    def run(recipe: Recipe, progress: Progress | None = None) -> Path:
        from cream.report.summary import summarise_run

        place = Run(Path(recipe.folder))
        with place.locked():
            context = open_context(
                recipe,
                place,
                progress or Silence(),
                base_dir=tiny_inputs,
                cache_dir=tiny_inputs / "no-cache",
            )
            run_recipe(context)
            write_json(place.root / "summary.json", summarise_run(place.root).as_json())
        return place.root

    return run


@pytest.fixture(scope="session")
def finished_run(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_recipe: RecipeMaker,
    run_whole: Callable[..., Path],
) -> Path:
    """A finished run of the tiny recipe. Read only: copy it to change it."""
    return run_whole(tiny_recipe(tmp_path_factory.mktemp("finished") / "run"))


@pytest.fixture(scope="session")
def finished_comparison(
    tmp_path_factory: pytest.TempPathFactory, tiny_inputs: Path, recipe_values: dict[str, Any]
) -> Path:
    """`cream` and `srlm` with seeds 1 and 2. Read only: copy it to change it."""
    from cream.comparison.members import make_plan, parse_methods
    from cream.comparison.running import run_comparison

    folder = tmp_path_factory.mktemp("comparison")
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_values))
    plan = make_plan(
        path,
        ["method.pairing.truncated=keep"],
        parse_methods("cream, srlm"),
        seeds=[1, 2],
        root=folder / "out",
    )
    run_comparison(plan, Silence(), base_dir=tiny_inputs, cache_dir=folder / "no-cache")
    return plan.root


@pytest.fixture
def recipe_file(tmp_path: Path, tiny_inputs: Path, recipe_values: dict[str, Any]) -> Path:
    """The tiny recipe as a file of its own, its data beside it, its run in ``tmp_path / "run"``."""
    for name in ("seed", "prompts", "test"):
        text = (tiny_inputs / f"{name}.jsonl").read_text(encoding="utf-8")
        (tmp_path / f"{name}.jsonl").write_text(text, encoding="utf-8")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({**recipe_values, "run_dir": str(tmp_path / "run")}))
    return path


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """Python of the environment that `make setup-vllm` made, or that CREAM_VLLM_PYTHON names."""
    default = Path(__file__).parents[1] / ".venv-vllm" / "bin" / "python"
    python = os.environ.get("CREAM_VLLM_PYTHON", str(default))
    if not Path(python).exists():
        pytest.skip(f"no environment with vLLM at {python}; `make setup-vllm` makes one")
    return python
