from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from cream.errors import RunError
from cream.recipe import Recipe
from run_contents import same_weights, stage_record, table, weights

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]
KEEP = "method.pairing.truncated=keep"


@pytest.fixture(scope="module")
def other_runs(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    finished_run: Path,
) -> dict[str, Path]:
    """Finished runs by method; the same seed, so M1 and its completions are the same."""
    folder = tmp_path_factory.mktemp("methods")
    made = {
        name: run_whole(tiny_recipe(folder / name, f"method={name}", KEEP))
        for name in ("srlm", "oracle")
    }
    return {"cream": finished_run, **made}


def test_checkpoints_are_ordinary_folders_and_each_training_changes_the_weights(
    finished_run: Path, tiny_inputs: Path
):
    models = {
        "M0": load_file(tiny_inputs / "model" / "model.safetensors"),
        **{name: weights(finished_run, name) for name in ("M1", "M2", "M3")},
    }
    for before, after in (("M0", "M1"), ("M1", "M2"), ("M2", "M3")):
        assert models[before].keys() == models[after].keys()
        moved = max(float((models[before][k] - models[after][k]).abs().max()) for k in models["M0"])
        assert moved > 1e-4, (before, after)
    folder = finished_run / "models" / "M3"
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert torch.equal(loaded.state_dict()["model.norm.weight"], models["M3"]["model.norm.weight"])
    assert AutoTokenizer.from_pretrained(folder).chat_template
    assert "M2 on pairs it sampled" in (folder / "README.md").read_text(encoding="utf-8")


def test_the_run_directory_holds_what_a_person_looks_for(finished_run: Path):
    manifest = json.loads((finished_run / "manifest.json").read_text(encoding="utf-8"))
    names = {path.name for path in finished_run.iterdir()}

    assert names == {
        ".lock",
        "data",
        "engine.json",
        "iteration-1",
        "iteration-2",
        "manifest.json",
        "models",
        "plan.json",
        "recipe.yaml",
        "seed-model",
        "sft",
        "summary.json",
    }
    assert manifest["seed"] == 1
    assert set(manifest["inputs"]) == {"M0", "template"}
    assert {"torch", "transformers"} <= set(manifest["environment"]["packages"])


def test_the_score_matrix_holds_every_column_and_one_row_per_completion(finished_run: Path):
    for t, models in ((1, {"M0", "M1"}), (2, {"M0", "M1", "M2"})):
        rows = table(finished_run, f"iteration-{t}/matrix")
        columns = set(rows[0])

        assert len(rows) == 8 * 4
        assert {"prompt_id", "completion_id", "token_ids", "text", "finish_reason"} <= columns
        assert {"seed", "num_tokens", "verifier", "partial_credit", "extracted"} <= columns
        assert {name for name in columns if name.startswith("logps_")} == {
            f"logps_{name}" for name in models
        }
        for row in rows:
            assert row["num_tokens"] == len(row["token_ids"])
            assert row["completion_id"].startswith(row["prompt_id"])
            assert all(-200 < row[f"logps_{name}"] < 0 for name in models)
            assert row["verifier"] in (0.0, 1.0)
            assert (row["finish_reason"] == "stop") == (row["token_ids"][-1] == 2)
        assert len({row["completion_id"] for row in rows}) == len(rows)
        assert len({row["seed"] for row in rows}) == len(rows)


def test_scores_of_the_sampling_model_equal_its_sampling_log_probabilities(finished_run: Path):
    """At temperature 1 and top-p 1 sampling and scoring ask the same model the same question."""
    for t in (1, 2):
        for row in table(finished_run, f"iteration-{t}/matrix"):
            assert row[f"logps_M{t}"] == pytest.approx(row["sampling_logp"], abs=1e-4)


def test_iterations_have_different_prompts_and_every_part_is_kept(finished_run: Path):
    prompts = [
        {row["prompt_id"] for row in table(finished_run, f"iteration-{t}/sample")} for t in (1, 2)
    ]

    assert not prompts[0] & prompts[1]
    assert [len(p) for p in prompts] == [8, 8]
    for stage in ("iteration-1/sample", "iteration-1/score/M0", "iteration-1/matrix"):
        assert len(list((finished_run / stage).glob("part-*.parquet"))) == 2


@pytest.mark.parametrize("method", ["cream", "srlm", "oracle"])
def test_tallies_add_up_and_figures_are_in_range(method: str, other_runs: dict[str, Path]):
    summary = json.loads((other_runs[method] / "summary.json").read_text(encoding="utf-8"))

    assert summary["method"] == method
    assert [row["model"] for row in summary["models"]] == ["M0", "M1", "M2", "M3"]
    for row in summary["iterations"]:
        tally, t = row["tally"], row["iteration"]
        pairs = len(table_of_pairs(other_runs[method], t))
        trained = stage_record(other_runs[method], f"iteration-{t}/train")["summary"]["tally"]
        assert sum(tally["parts"].values()) == tally["total"] == 8
        assert tally["parts"]["paired"] == pairs == trained["total"] == trained["parts"]["trained"]
        assert 0 < row["consistency"]["low"] <= row["consistency"]["rate"] <= 1
        assert row["completions"] == 32
        assert sum(row["pair_accuracy"]["counts"].values()) == pairs
    first = summary["iterations"][0]["consistency"]
    assert 0 < first["rate"] < 1
    assert first["rate"] == pytest.approx((first["tau_mean"] + 1) / 2, abs=1e-12)


def table_of_pairs(root: Path, t: int) -> list[dict[str, object]]:
    return [row for row in table(root, f"iteration-{t}/pair") if "chosen_id" in row]


def test_methods_start_from_the_same_model_and_completions(other_runs: dict[str, Path]):
    samples = [table(run, "iteration-1/sample") for run in other_runs.values()]

    assert samples[0] == samples[1] == samples[2]
    assert same_weights(weights(other_runs["cream"], "M1"), weights(other_runs["oracle"], "M1"))
    assert not same_weights(weights(other_runs["cream"], "M2"), weights(other_runs["oracle"], "M2"))
    assert not same_weights(weights(other_runs["cream"], "M2"), weights(other_runs["srlm"], "M2"))


def test_methods_pair_and_weigh_as_they_say(other_runs: dict[str, Path]):
    """CREAM and SRLM make the same pairs, CREAM weighs them by C; oracle ranks by the verdict."""
    matrix = {r["completion_id"]: r for r in table(other_runs["cream"], "iteration-1/matrix")}
    cream, srlm, oracle = (table_of_pairs(run, 1) for run in other_runs.values())
    rate = stage_record(other_runs["cream"], "iteration-1/pair")["summary"]["consistency"]["rate"]

    def sides(rows: list[dict[str, object]]) -> list[tuple[object, object]]:
        return [(row["chosen_id"], row["rejected_id"]) for row in rows]

    assert sides(cream) == sides(srlm)
    assert {row["consistency"] for row in cream} == {rate}
    assert {row["consistency"] for row in srlm + oracle} == {1.0}
    for row in cream:
        group = [r for r in matrix.values() if r["prompt_id"] == row["prompt_id"]]
        rewards = {r["completion_id"]: r["logps_M1"] - r["logps_M0"] for r in group}
        assert rewards[str(row["chosen_id"])] == max(rewards.values())
        assert rewards[str(row["rejected_id"])] == min(rewards.values())
    for row in oracle:
        assert matrix[str(row["chosen_id"])]["verifier"] == 1.0
        assert matrix[str(row["rejected_id"])]["verifier"] == 0.0


def test_training_metrics_have_one_line_per_step_and_start_without_margin(finished_run: Path):
    """Before the first step policy and loss reference are one model, so the margin is rounding."""
    lines = [
        json.loads(line)
        for line in (finished_run / "iteration-1" / "train" / "metrics.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    assert [line["step"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) == stage_record(finished_run, "iteration-1/train")["summary"]["steps"]
    assert {line["stage"] for line in lines} == {"iteration-1/train"}
    assert lines[0]["rewards/margins"] == pytest.approx(0.0, abs=1e-4)
    assert lines[0]["loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(lines[-1]["rewards/margins"]) > 1e-3


def test_a_rerun_touches_no_stage_and_is_quick(
    finished_run: Path, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    stages = [p for p in root.rglob("*") if p.is_file() and p.parent != root]
    before = {path: path.stat().st_mtime_ns for path in stages}
    begun = time.perf_counter()
    run_whole(tiny_recipe(root))
    seconds = time.perf_counter() - begun

    after = {p: p.stat().st_mtime_ns for p in root.rglob("*") if p.is_file() and p.parent != root}
    assert after == before
    assert seconds < 2.0


def test_raising_iterations_goes_on_from_the_last_model(
    finished_run: Path, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    before = (root / "iteration-2" / "train" / "stage.json").stat().st_mtime_ns
    run_whole(tiny_recipe(root, "iterations=3"))

    assert (root / "iteration-2" / "train" / "stage.json").stat().st_mtime_ns == before
    assert not same_weights(weights(root, "M3"), weights(root, "M4"))
    rows = table(root, "iteration-3/matrix")
    assert {name for name in rows[0] if name.startswith("logps_")} == {
        "logps_M0",
        "logps_M2",
        "logps_M3",
    }


@pytest.mark.parametrize("change", ["sampling.temperature=0.7", "method.level=sample", "seed=2"])
def test_a_changed_recipe_is_refused_and_the_run_left_as_it_was(
    change: str, finished_run: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    before = (finished_run / "recipe.yaml").read_bytes()
    key = change.partition("=")[0]

    with pytest.raises(RunError, match=rf"made by another recipe \({key}: .* set run_dir"):
        run_whole(tiny_recipe(finished_run, change))
    assert (finished_run / "recipe.yaml").read_bytes() == before


def test_a_damaged_stage_is_refused_by_name(
    finished_run: Path, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    root = tmp_path / "run"
    shutil.copytree(finished_run, root)
    (root / "iteration-1" / "pair" / "pairs.parquet").unlink()

    with pytest.raises(RunError, match=r"iteration-1/pair/pairs\.parquet is missing"):
        run_whole(tiny_recipe(root))


def test_two_runs_in_one_directory_are_refused(
    finished_run: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    from cream.runs.store import Run

    with (
        Run(finished_run).locked(),
        pytest.raises(RunError, match="another cream process is using"),
    ):
        run_whole(tiny_recipe(finished_run))
