"""Fixtures of all rooms: the tiny run of `tiny_run`, whole, and what makes others like it."""

from __future__ import annotations

import os

# One thread here and in every process that a test starts, before a library reads it: tiny models on
# two threads cost many times as much, most of all beside a busy core.
os.environ |= {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import tiny_run
from cream.protocols import Progress
from cream.recipe import Recipe
from tiny_run import Silence

RecipeMaker = Callable[..., Recipe]
"""(run directory, *"a.b=c" overrides) -> recipe."""


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
    return tiny_run.write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def recipe_values(tiny_inputs: Path) -> dict[str, Any]:
    """The tiny recipe as plain values: two iterations, every stage in at least two parts."""
    return tiny_run.tiny_values(tiny_inputs)


@pytest.fixture(scope="session")
def tiny_recipe(tiny_inputs: Path) -> RecipeMaker:
    """Make the tiny recipe for a run directory, with ``a.b=c`` changes."""

    def make(run_dir: Path, *overrides: str) -> Recipe:
        return tiny_run.tiny_recipe(tiny_inputs, run_dir, *overrides)

    return make


@pytest.fixture(scope="session")
def run_whole(tiny_inputs: Path) -> Callable[..., Path]:
    """Run a recipe from wherever its directory stands, as `cream run` does; returns the folder."""

    def run(recipe: Recipe, progress: Progress | None = None) -> Path:
        return tiny_run.run_whole(recipe, tiny_inputs, progress)

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
