from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from cream import __version__
from cream.recipe import load_recipe
from cream.runs.store import Run

Cream = Callable[..., Any]


def test_run_prints_tables_and_progress_apart(cream: Cream, recipe_file: Path, finished_run: Path):
    result = cream("run", recipe_file)

    assert result.code == 0, result.err
    for word in ("greedy accuracy", "M3", "constant", "C compared", "iteration", "time:"):
        assert word in result.out
    assert f"run directory: {recipe_file.parent / 'run'}" in result.out
    assert "✓ [19/20] iteration 2: train M2 -> M3" in result.err
    assert "✓" not in result.out
    assert "\x1b" not in result.out + result.err
    again = cream("run", recipe_file, "--json", "--quiet")
    expected = json.loads((finished_run / "summary.json").read_text(encoding="utf-8"))
    summary = json.loads(again.out)
    assert again.err == ""
    assert {k: v for k, v in summary.items() if not k.startswith("seconds")} == {
        k: v for k, v in expected.items() if not k.startswith("seconds")
    }
    assert summary == json.loads((recipe_file.parent / "run/summary.json").read_text("utf-8"))


def test_tables_in_a_file_are_not_squeezed(cream: Cream, finished_run: Path):
    """Every row of the iterations' table, the widest one, stays on one line."""
    lines = cream("status", finished_run).out.splitlines()

    (row,) = [line for line in lines if "1 (M1 -> M2)" in line]
    assert "mean_likelihood(M1), mean_likelihood(M0)" in row
    assert "8 of 8" in row


def test_stages_one_by_one_make_the_same_run(cream: Cream, recipe_file: Path, finished_run: Path):
    commands = [("train", "-t", 0), ("sample",), ("score",), ("pair",), ("train",)]
    results = [cream(name, recipe_file, *rest, "--json") for name, *rest in commands]

    assert [result.code for result in results] == [0] * 5, [r.err for r in results]
    tuned, sampled, scored, paired, trained = (json.loads(result.out) for result in results)
    assert tuned["tally"]["total"] == tuned["tally"]["parts"]["trained"] == 16
    assert sampled["completions"] == 32
    assert scored["columns"] == ["M1", "M0"]
    assert paired["tally"]["total"] == 8
    assert trained["steps"] == 4
    for stage in ("sft/train", "iteration-1/sample", "iteration-1/pair", "iteration-1/train"):
        records = [
            json.loads((root / stage / "stage.json").read_text(encoding="utf-8"))
            for root in (recipe_file.parent / "run", finished_run)
        ]
        assert records[0]["fingerprint"] == records[1]["fingerprint"]
        assert records[0]["summary"] == records[1]["summary"]


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("sample", "sft/train"),
        ("score", "iteration-1/sample"),
        ("pair", "iteration-1/matrix"),
        ("train", "iteration-1/pair"),
    ],
)
def test_a_stage_asks_for_what_it_reads(
    command: str, missing: str, cream: Cream, recipe_file: Path
):
    result = cream(command, recipe_file)

    assert result.code == 2
    assert f"{missing} is not finished" in result.err
    assert result.out == ""


def test_status_tells_stages_and_results(cream: Cream, finished_run: Path, tmp_path: Path):
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    shutil.rmtree(root / "iteration-2" / "train")
    shutil.rmtree(root / "iteration-2" / "evaluate")
    result = cream("status", root, "--json")

    status = json.loads(result.out)
    states = {entry["stage"]: entry["state"] for entry in status["stages"]}
    assert result.code == 0
    assert set(status) == {"stages", "summary"}
    assert states["iteration-2/pair"] == "finished"
    assert states["iteration-2/train"] == states["iteration-2/evaluate"] == "missing"
    assert [row["model"] for row in status["summary"]["models"]] == ["M0", "M1", "M2"]
    assert "iteration-2/train" in cream("status", root).out


def test_status_of_a_folder_that_is_no_run_is_refused(cream: Cream, tmp_path: Path):
    result = cream("status", tmp_path)

    assert result.code == 2
    assert "holds no run" in result.err


def test_init_writes_a_recipe_that_parses_and_never_over_another(cream: Cream, tmp_path: Path):
    path = tmp_path / "new" / "recipe.yaml"
    first = cream("init", path)
    second = cream("init", path)
    forced = cream("init", path, "--force")

    recipe = load_recipe(path)
    assert (first.code, second.code, forced.code) == (0, 2, 0)
    assert "exists; choose another name or give --force" in second.err
    assert recipe.method.name == "cream"
    assert recipe.data.test is not None


def test_models_lists_the_embedded_model(
    cream: Cream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CREAM_CACHE", str(tmp_path))
    result = cream("models", "--json")
    told = cream("models")

    (entry,) = json.loads(result.out)
    assert result.code == told.code == 0
    assert entry["name"] == "smollm2-135m-instruct"
    assert entry["cached"] is False
    assert entry["folder"].startswith(str(tmp_path))
    assert "not fetched yet" in told.out


def test_pairs_are_made_again_without_a_model_under_another_method(
    cream: Cream, finished_run: Path, tmp_path: Path
):
    """SRLM's pairs are CREAM's with C = 1. The run itself is not touched."""
    out = tmp_path / "pairs"
    begun = time.perf_counter()
    changes = ("--set", "method={name: srlm, pairing: {truncated: keep}}")
    result = cream("pair", "--from", finished_run, *changes, "--out", out, "--json")
    seconds = time.perf_counter() - begun

    summary = json.loads(result.out)
    ours = pq.read_table(out / "pairs.parquet").to_pylist()
    theirs = pq.read_table(finished_run / "iteration-1/pair/pairs.parquet").to_pylist()
    assert result.code == 0
    assert seconds < 2.0
    assert summary["folder"] == str(out)
    assert summary["consistency_in_loss"] is None
    assert [{**row, "consistency": 1.0} for row in theirs] == ours
    assert cream("pair", "--from", finished_run, "--out", out).code == 0


@pytest.mark.parametrize("change", ["sampling.temperature=0.5", "seed=3", "methods=srlm"])
def test_pairs_made_again_refuse_settings_that_do_not_decide_them(
    change: str, cream: Cream, finished_run: Path
):
    result = cream("pair", "--from", finished_run, "--set", change)

    assert result.code == 2
    assert f"pairs do not depend on {change.partition('=')[0]}" in result.err


def test_pairs_made_again_name_a_column_the_matrix_lacks(
    cream: Cream, finished_run: Path, tmp_path: Path
):
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    matrix = Run(root).finished("iteration-2/matrix")
    for part in matrix.parts():
        pq.write_table(pq.read_table(part).drop_columns(["logps_M1"]), part)
    matrix.finish({}, 0.0)
    result = cream("pair", "--from", root, "-t", 2)

    assert result.code == 2
    assert "has no column logps_M1" in result.err
    assert "`cream score` with a recipe that names this method makes it" in result.err


def test_pair_wants_a_recipe_or_a_run(cream: Cream, recipe_file: Path, finished_run: Path):
    for arguments in ((), (recipe_file, "--from", finished_run)):
        result = cream("pair", *arguments)
        assert result.code == 2
        assert "give either a RECIPE, or --from RUN" in result.err


def test_version_help_and_usage_errors(cream: Cream):
    version, explained, unknown = cream("--version"), cream("--help"), cream("frobnicate")

    assert (version.code, version.out.strip()) == (0, __version__)
    assert explained.code == 0
    for name in ("run", "init", "models", "eval", "status", "sample", "score", "pair", "train"):
        assert name in explained.out
    assert unknown.code == 2
    assert "Traceback" not in unknown.err
