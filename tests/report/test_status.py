"""Status tells finished, begun and missing stages apart, and asks for nothing the recipe lacks."""

from pathlib import Path

import pytest
from hand_made_run import RECIPE, STAGES, write_run

from cream.errors import RunError
from cream.report.status import run_status
from cream.runs.files import write_yaml


def test_every_stage_of_the_recipe_has_a_state(tmp_path: Path):
    stages = {
        entry.stage: entry.model_dump(exclude={"stage"})
        for entry in run_status(write_run(tmp_path / "run"))
    }

    assert tuple(stages) == STAGES
    assert stages["sft/train"] == {"state": "finished", "seconds": 10.0, "parts": 0}
    assert stages["sft/evaluate"] == {"state": "finished", "seconds": 2.0, "parts": 2}
    assert stages["iteration-2/sample"] == {"state": "begun", "seconds": None, "parts": 1}
    assert stages["iteration-1/matrix"] == {"state": "missing", "seconds": None, "parts": 0}
    assert stages["data/prompts-1"]["state"] == "missing"


def test_a_run_of_an_older_version_is_refused_and_the_version_named(tmp_path: Path):
    write_yaml(tmp_path / "recipe.yaml", RECIPE)

    with pytest.raises(RunError, match=r"was made by Cream 0\.1"):
        run_status(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="holds no run"):
        run_status(tmp_path)
