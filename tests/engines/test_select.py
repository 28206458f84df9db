import os
import sys
from pathlib import Path

import pytest
import torch

from cream.engines.select import EngineChoice, choose_engine
from cream.engines.vllm_worker import installed_version
from cream.errors import DependencyError, RecipeError, RunError
from cream.recipe.engine import AutoEngine, TorchEngine, VllmEngine

CPU, GPU = torch.device("cpu"), torch.device("cuda:0")
without_vllm = pytest.mark.skipif(
    installed_version() is not None, reason="vLLM is installed beside Cream"
)
BEGUN_WITH_TORCH = {"engine": "torch", "engine_reason": "auto, and the model runs on cpu"}


@pytest.fixture
def _vllm_beside_cream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As after `pip install vllm` here, as far as the import system and the metadata can tell."""
    info = tmp_path / "site" / "vllm-0.32.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n")
    (tmp_path / "site" / "vllm").mkdir()
    (tmp_path / "site" / "vllm" / "__init__.py").write_text("raise AssertionError('not imported')")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))


def python_with(tmp_path: Path, body: str) -> str:
    """A program in the place of a Python: whatever its arguments, it does `body`."""
    path = tmp_path / "python"
    path.write_text(f"#!{sys.executable}\n{body}\n", encoding="utf-8")
    path.chmod(0o755)
    return str(path)


def test_auto_is_torch_without_a_gpu() -> None:
    choice = choose_engine(AutoEngine(), CPU)

    assert choice == EngineChoice(TorchEngine(), "auto, and the model runs on cpu")


@without_vllm
def test_auto_is_torch_on_a_gpu_without_vllm() -> None:
    choice = choose_engine(AutoEngine(), GPU)

    assert choice == EngineChoice(TorchEngine(), "auto, and vLLM is not installed beside Cream")


@pytest.mark.usefixtures("_vllm_beside_cream")
def test_auto_is_vllm_on_a_gpu_with_vllm() -> None:
    choice = choose_engine(AutoEngine(), GPU)

    assert choice.settings == VllmEngine()
    assert choice.reason == "auto, a GPU, and vLLM 0.32.0 beside Cream"
    assert str(choice) == f"vllm ({choice.reason})"


@pytest.mark.usefixtures("_vllm_beside_cream")
def test_auto_stays_with_what_the_run_was_begun_with() -> None:
    choice = choose_engine(AutoEngine(), GPU, BEGUN_WITH_TORCH)

    assert choice.settings == TorchEngine()
    assert choice.record == BEGUN_WITH_TORCH


@without_vllm
def test_auto_does_not_leave_vllm_silently_when_it_is_gone() -> None:
    with pytest.raises(DependencyError, match="needs vLLM"):
        choose_engine(AutoEngine(), GPU, {"engine": "vllm", "engine_reason": "auto"})


def test_naming_the_engine_that_a_run_has_anyway_changes_nothing() -> None:
    choice = choose_engine(TorchEngine(), CPU, BEGUN_WITH_TORCH)

    assert choice.record == BEGUN_WITH_TORCH


@pytest.mark.usefixtures("_vllm_beside_cream")
def test_another_engine_than_the_run_was_begun_with_is_refused() -> None:
    with pytest.raises(RunError, match="begun with engine torch, the recipe says vllm"):
        choose_engine(VllmEngine(), CPU, BEGUN_WITH_TORCH)


@without_vllm
def test_vllm_that_is_not_installed_is_refused() -> None:
    with pytest.raises(DependencyError, match="Cream's environment does not have"):
        choose_engine(VllmEngine(), CPU)


def test_vllm_on_a_device_that_it_does_not_run_on_is_refused() -> None:
    with pytest.raises(RecipeError, match=r"model\.device is mps"):
        choose_engine(VllmEngine(), torch.device("mps"))


@without_vllm
def test_another_environment_is_asked_for_vllm_and_has_none() -> None:
    """This very Python, asked from outside: it runs the worker's script, which finds no vLLM."""
    with pytest.raises(DependencyError, match=r"which .* does not have"):
        choose_engine(VllmEngine(python=sys.executable), CPU)


def test_another_environment_that_has_vllm_is_taken(tmp_path: Path) -> None:
    python = python_with(tmp_path, 'print(\'{"version": "0.32.0"}\')')

    choice = choose_engine(VllmEngine(python=python), CPU)

    assert choice.settings == VllmEngine(python=python)
    assert choice.reason == "the recipe says so"


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("print('hello')", "is no Python"),
        ("raise SystemExit('Unknown option: -P')", "Unknown option"),
    ],
)
def test_a_python_that_is_none_is_refused(tmp_path: Path, body: str, problem: str) -> None:
    with pytest.raises(DependencyError, match=problem):
        choose_engine(VllmEngine(python=python_with(tmp_path, body)), CPU)


def test_a_python_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DependencyError, match="is no Python"):
        choose_engine(VllmEngine(python=os.fspath(tmp_path / "nowhere")), CPU)
