"""Status tells finished, begun and missing stages apart, and asks for nothing the recipe lacks."""

import os
import shutil
from pathlib import Path

import pytest
from hand_made_run import RECIPE, STAGES, write_run

from cream.errors import RunError
from cream.report.summary import status_of
from cream.runs.files import write_yaml
from cream.runs.verification import verify_run


def test_every_stage_of_the_recipe_has_a_state(tmp_path: Path):
    stages = {
        entry.stage: entry.model_dump(exclude={"stage", "bytes", "problems"})
        for entry in status_of(write_run(tmp_path / "run")).stages
    }

    assert tuple(stages) == STAGES
    assert stages["sft/train"] == {"state": "finished", "seconds": 10.0, "parts": 0}
    assert stages["sft/evaluate"] == {"state": "finished", "seconds": 2.0, "parts": 2}
    assert stages["iteration-2/sample"] == {"state": "begun", "seconds": None, "parts": 1}
    assert stages["iteration-1/matrix"] == {"state": "missing", "seconds": None, "parts": 0}
    assert stages["data/prompts-1"]["state"] == "missing"


def test_a_hole_under_a_finished_stage_is_shown_as_damage_with_what_is_wrong(tmp_path: Path):
    root = write_run(tmp_path / "run")
    (root / "sft/evaluate/part-00001.parquet").unlink()
    shutil.rmtree(root / "models/M1")
    stages = {entry.stage: entry for entry in status_of(root).stages}

    assert stages["seed-model/evaluate"].state == "finished"
    assert stages["sft/evaluate"].state == stages["sft/train"].state == "damaged"
    assert stages["sft/evaluate"].problems == (
        f"{root}/sft/evaluate/part-00001.parquet is missing",
    )
    assert stages["sft/train"].problems == (f"{root}/models/M1 is missing",)


def test_only_reading_all_finds_a_bit_that_flipped_without_a_trace(tmp_path: Path):
    root = write_run(tmp_path / "run")
    weights = root / "models/M1/config.json"
    before = weights.stat()
    weights.write_bytes(bytes([weights.read_bytes()[0] ^ 1]) + weights.read_bytes()[1:])
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert {entry.state for entry in status_of(root).stages} == {"finished", "begun", "missing"}

    found = verify_run(root)

    assert not found.whole
    assert [entry.stage for entry in found.stages if entry.state == "damaged"] == ["sft/train"]


def test_a_damaged_record_is_damage_of_its_stage(tmp_path: Path):
    root = write_run(tmp_path / "run")
    assert verify_run(root).whole
    record = root / "iteration-1/pair/stage.json"
    record.write_text(record.read_text().replace("0.625", "0.725"))

    (pair,) = [entry for entry in verify_run(root).stages if entry.state == "damaged"]
    assert pair.stage == "iteration-1/pair"
    assert "its seal does not fit" in pair.problems[0]


def test_a_run_of_an_older_version_is_refused_and_the_version_named(tmp_path: Path):
    write_yaml(tmp_path / "recipe.yaml", RECIPE)

    with pytest.raises(RunError, match=r"was made by Cream 0\.1"):
        status_of(tmp_path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match="holds no run"):
        status_of(tmp_path)
