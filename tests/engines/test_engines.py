import os
import shutil
import sys
from pathlib import Path

import pytest
import torch

from cream.engines.checkpoints import Checkpoints
from cream.engines.engine import EngineChoice, choose_engine, open_engine
from cream.engines.sampler import TorchSampler
from cream.engines.vllm_worker import installed_version
from cream.errors import DependencyError, ModelError, RecipeError, RunError
from cream.protocols import Capability, Engine, Sampler
from cream.recipe.engine import AutoEngine, TorchEngine, VllmEngine
from cream.testing import tiny_model_folder
from cream.types import ScoringRequest

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


class Own:
    """A user's sampler: records the models that it is given."""

    fingerprint = "own"

    def __init__(self):
        self.given = []

    def of(self, model):
        self.given.append(model)
        return TorchSampler(model)


def checkpoints(tmp_path):
    folder = tiny_model_folder(tmp_path / "seed")
    return Checkpoints(
        folder=tmp_path / "models",
        seed_folder=folder,
        seed_name="tiny",
        tokenizer=None,
        device=CPU,
        compute_dtype=torch.float32,
        context_length=512,
    )


def test_every_engine_is_a_sampler_and_a_scorer_that_says_what_it_can_do(tmp_path):
    held = checkpoints(tmp_path)
    own = Own()
    request = ScoringRequest("p", (5, 6, 7), ((8, 9),))
    choices = [EngineChoice(TorchEngine(), "r"), EngineChoice(VllmEngine(), "r")]
    engines = [open_engine(choice, held) for choice in choices]
    engines.append(open_engine(choices[0], held, own=own))

    scores = [next(iter(engine.scorer("M0").score([request]))) for engine in engines]

    assert [engine.name for engine in engines] == ["torch", "vllm", "own"]
    assert all(isinstance(engine, Engine) for engine in engines)
    assert all(isinstance(engine.sampler("M0"), Sampler) for engine in engines)
    for other in scores[1:]:  # log-probabilities come from torch, whatever samples
        assert (other.token_logps[0] == scores[0].token_logps[0]).all()
    assert Capability.GRADIENTS in engines[0].capabilities
    assert Capability.LOGPS not in engines[1].capabilities
    assert own.given == [held.for_inference("M0")]


def test_one_model_is_held_at_a_time_an_engines_process_included(tmp_path):
    held = checkpoints(tmp_path)
    first = held.for_inference("M0")
    closed = []

    assert held.for_inference("M0") is first
    assert held.hold("process", lambda: "running", closed.append) == "running"
    assert held.hold("process", lambda: "another", closed.append) == "running"
    assert not closed
    assert held.for_inference("M0") is not first
    assert closed == ["running"]


def test_a_sampler_is_made_once_while_its_model_is_held(tmp_path):
    held = checkpoints(tmp_path)
    engine = open_engine(EngineChoice(TorchEngine(), "r"), held)
    first = engine.sampler("M0")

    assert engine.sampler("M0") is first
    assert engine.scorer("M0") is engine.scorer("M0")
    held.release()
    assert engine.sampler("M0") is not first
    trained = held.for_training("M0")  # not held any more: nothing made of it may stay
    assert held.for_inference("M0") is not trained


def test_a_model_that_is_not_causal_is_refused_when_m0_is_loaded(tmp_path):
    from transformers import AutoConfig, AutoModelForCausalLM

    held = checkpoints(tmp_path)
    shape = {"vocab_size": 259, "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = AutoConfig.for_model("bert", **shape, intermediate_size=64, initializer_range=0.2)
    shutil.rmtree(held.seed_folder)
    AutoModelForCausalLM.from_config(config).save_pretrained(held.seed_folder)

    with pytest.raises(ModelError, match="not causal"):
        held.for_training("M0")
