"""A run keeps the engine it was begun with (`docs/decisions/0011-engines.md`)."""

import json
import shutil

import pytest

from cream.errors import RunError
from cream.recipe.engine import AutoEngine
from cream.runs.files import read_sealed

BEGUN = {"engine": "torch", "engine_reason": "auto, and the model runs on cpu"}


@pytest.fixture
def begun(finished_run, tmp_path):
    return shutil.copytree(finished_run, tmp_path / "run")


def test_the_choice_and_its_reason_are_recorded(finished_run):
    assert read_sealed(finished_run / "engine.json") == BEGUN
    for name in ("seed-model/evaluate", "sft/evaluate", "iteration-1/sample"):
        record = json.loads((finished_run / name / "stage.json").read_text())
        assert record["inputs"]["engine"] == "torch"
        assert BEGUN.items() <= record["summary"].items()


def test_vllm_that_is_installed_later_changes_nothing(begun, tiny_recipe, run_whole, monkeypatch):
    """The module is found beside Cream from now on; the run goes on as if it were not."""
    site = begun.parent / "site"
    (site / "vllm").mkdir(parents=True)
    (site / "vllm" / "__init__.py").write_text("raise AssertionError('not imported')")
    monkeypatch.syspath_prepend(str(site))
    before = {p: p.stat().st_mtime_ns for p in begun.rglob("stage.json")}

    run_whole(tiny_recipe(begun))

    assert {p: p.stat().st_mtime_ns for p in begun.rglob("stage.json")} == before


def test_naming_the_engine_that_samples_anyway_is_no_change(begun, tiny_recipe, run_whole):
    assert tiny_recipe(begun).engine == AutoEngine()
    run_whole(tiny_recipe(begun, "engine=torch"))

    assert read_sealed(begun / "engine.json") == BEGUN


def test_another_engine_is_refused(begun, tiny_recipe, run_whole):
    with pytest.raises(RunError, match="begun with engine torch, the recipe says vllm"):
        run_whole(tiny_recipe(begun, "engine=vllm"))


@pytest.mark.parametrize("text", ["{}", '{"engine": "fast", "engine_reason": ""}'])
def test_a_record_that_names_no_engine_is_refused(begun, tiny_recipe, run_whole, text):
    (begun / "engine.json").write_text(text)

    with pytest.raises(RunError, match=r"engine\.json names no engine"):
        run_whole(tiny_recipe(begun))
