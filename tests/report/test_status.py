"""Status tells finished, begun and missing stages apart, and asks for nothing the recipe lacks."""

from pathlib import Path

import pytest
from hand_made_run import RECIPE, write_run

from cream.errors import RunError
from cream.report.status import run_status
from cream.runs.files import write_yaml


def test_every_stage_of_the_recipe_has_a_state(tmp_path: Path):
    stages = {entry.pop("stage"): entry for entry in run_status(write_run(tmp_path / "run"))}

    assert list(stages) == [
        "data/seed",
        "data/prompts-1",
        "data/prompts-2",
        "data/test",
        "seed-model/evaluate",
        "sft/train",
        "sft/evaluate",
        "iteration-1/sample",
        "iteration-1/score/M1",
        "iteration-1/matrix",
        "iteration-1/pair",
        "iteration-1/train",
        "iteration-1/evaluate",
        "iteration-2/sample",
        "iteration-2/matrix",
        "iteration-2/pair",
        "iteration-2/train",
        "iteration-2/evaluate",
    ]
    assert stages["sft/train"] == {"state": "finished", "seconds": 10.0, "parts": 0}
    assert stages["sft/evaluate"] == {"state": "finished", "seconds": 2.0, "parts": 2}
    assert stages["iteration-2/sample"] == {"state": "begun", "seconds": None, "parts": 1}
    assert stages["iteration-1/matrix"] == {"state": "missing", "seconds": None, "parts": 0}
    assert stages["data/prompts-1"]["state"] == "missing"


def test_a_run_without_test_data_is_never_evaluated(tmp_path: Path):
    write_yaml(tmp_path / "recipe.yaml", {**RECIPE, "data": {"test": None}})
    names = [entry["stage"] for entry in run_status(tmp_path)]

    assert "sft/train" in names
    assert not [name for name in names if name.endswith("evaluate")]


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="holds no run"):
        run_status(tmp_path)
