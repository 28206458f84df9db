"""Whole runs with vLLM (`make test-vllm`): the command line, the record, and going on."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import yaml

from cream.testing import tiny_model_folder

pytestmark = pytest.mark.vllm


def cream(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("cream")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)


def completions(run: Path) -> list[dict]:
    parts = sorted((run / "iteration-1" / "sample").glob("part-*.parquet"))
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_inputs, recipe_values, vllm_python):
    """A folder with a recipe and the run it made, one iteration."""
    folder = tmp_path_factory.mktemp("vllm-run")
    tiny_model_folder(folder / "model", head_dim=32)
    for name in ("seed", "prompts", "test"):
        shutil.copy(tiny_inputs / f"{name}.jsonl", folder)
    values = {
        **recipe_values,
        "iterations": 1,
        "run_dir": "run",
        "model": {**recipe_values["model"], "name": "./model"},
        "engine": {"name": "vllm", "python": vllm_python, "memory_share": 0.1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(values))
    done = cream("run", "recipe.yaml", "--json", folder=folder)
    assert done.returncode == 0, done.stderr
    assert "completions are sampled by vllm (the recipe says so)" in " ".join(done.stderr.split())
    assert [m["model"] for m in json.loads(done.stdout)["models"]] == ["M0", "M1", "M2"]
    return folder


def test_the_stages_that_sampled_say_so(place):
    said = {"engine": "vllm", "engine_reason": "the recipe says so"}
    assert json.loads((place / "run" / "engine.json").read_text()) == said
    for name in ("seed-model/evaluate", "sft/evaluate", "iteration-1/sample"):
        record = json.loads((place / "run" / name / "stage.json").read_text())
        assert record["inputs"]["engine"] == "vllm"
        assert said.items() <= record["summary"].items()


def test_completions_are_scored_as_what_they_are(place):
    """Sampled at temperature 1 from the whole vocabulary, so both log-probabilities are one."""
    matrix = place / "run" / "iteration-1" / "matrix"
    scored = {
        row["completion_id"]: row["logps_M1"]
        for part in matrix.glob("part-*.parquet")
        for row in pq.read_table(part).to_pylist()
    }
    rows = completions(place / "run")

    assert len(rows) == len(scored) == 8 * 4
    for row in rows:
        assert row["sampling_logp"] == pytest.approx(scored[row["completion_id"]], abs=1e-3)


def test_a_lost_part_is_sampled_again_to_the_same_completions(place, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(place, again)
    before = completions(again / "run")
    (again / "run" / "iteration-1" / "sample" / "stage.json").unlink()
    (again / "run" / "iteration-1" / "sample" / "part-00001.parquet").unlink()

    done = cream("sample", "recipe.yaml", "-t", "1", folder=again)

    assert done.returncode == 0, done.stderr
    assert completions(again / "run") == before


def test_another_engine_is_refused_and_auto_is_not(place):
    torch = cream("sample", "recipe.yaml", "--set", "engine=torch", folder=place)
    setting = cream("sample", "recipe.yaml", "--set", "engine.max_rows=8", folder=place)

    assert torch.returncode == 2
    assert "this run was begun with engine vllm" in " ".join(torch.stderr.split())
    assert setting.returncode == 0, setting.stderr
