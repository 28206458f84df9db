"""Every figure of a summary equals the one computed by hand from a small run directory."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hand_made_run import (
    EVALUATION_SCHEMA,
    PAIR_SUMMARY,
    STAGES,
    evaluation_rows,
    finish,
    plan_of,
    write_run,
)
from scipy.stats import binomtest

from cream.errors import RunError
from cream.records import ConstantAnswer
from cream.report.summary import (
    overall_baseline,
    summarise_evaluation,
    summarise_run,
)
from cream.runs.files import write_json, write_yaml
from cream.runs.store import Run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return write_run(tmp_path / "run")


def summary_of(root: Path) -> dict[str, Any]:
    return summarise_run(root).as_json()


def wilson(right: int, n: int) -> tuple[float, float]:
    interval = binomtest(right, n).proportion_ci(method="wilson")
    return interval.low, interval.high


def test_accuracy_overall_and_per_task_with_wilson_intervals(root: Path):
    m0, m1, m2 = summary_of(root)["models"]

    assert [m["model"] for m in (m0, m1, m2)] == ["M0", "M1", "M2"]
    for model, right in ((m0, 1), (m1, 2), (m2, 3)):
        overall = model["overall"]
        assert (overall["right"], overall["n"]) == (right, 4)
        assert overall["accuracy"] == right / 4
        assert (overall["low"], overall["high"]) == pytest.approx(wilson(right, 4), rel=1e-12)
    tasks = m1["tasks"]
    assert list(tasks) == ["[red]", "sums"]
    assert (tasks["sums"]["right"], tasks["sums"]["n"]) == (1, 2)
    assert (m2["tasks"]["sums"]["right"], m2["tasks"]["[red]"]["right"]) == (2, 1)


def test_greedy_answers_alone_give_partial_credit_and_length(root: Path):
    """M1: two right (credit 1) and two wrong (0.5); lengths 1, 2, 3 and 4. Samples play no part."""
    overall = summary_of(root)["models"][1]["overall"]

    assert overall["partial_credit"] == 0.75
    assert overall["mean_tokens"] == 2.5


def test_samples_give_mean_at_k_and_pass_at_k(root: Path):
    """Right of two: 2, 1, 0, 1. mean@2 = (1 + 1/2 + 0 + 1/2) / 4, pass@2 = 3 of 4 prompts."""
    overall = summary_of(root)["models"][0]["overall"]

    assert overall["k"] == 2
    assert overall["mean_at_k"] == 0.5
    assert overall["pass_at_k"] == 0.75
    sums = summary_of(root)["models"][0]["tasks"]["sums"]
    assert (sums["mean_at_k"], sums["pass_at_k"]) == (0.75, 1.0)


def test_without_samples_there_is_no_mean_or_pass_at_k():
    rows = [row for row in evaluation_rows("sft") if row["index"] == -1]
    overall = summarise_evaluation(pa.Table.from_pylist(rows, schema=EVALUATION_SCHEMA)).overall

    assert overall.k is None
    assert overall.mean_at_k is None


def test_the_gain_over_m1_is_paired_by_id(root: Path):
    """M2 gains p2 and loses nothing: +1/4. Its rows are stored in another order."""
    m0, m1, m2 = summary_of(root)["models"]

    assert m0["gain"] is None
    assert m1["gain"] is None
    assert m2["gain"]["difference"] == 0.25
    # A difference of 0 or 1 on four prompts: no resample can lose, and few gain everywhere.
    assert m2["gain"]["low"] == 0.0
    assert 0.5 <= m2["gain"]["high"] <= 1.0


def test_the_gain_has_no_spread_where_every_prompt_gains_alike(tmp_path: Path):
    run = Run(tmp_path / "run")
    for folder, right in (("sft", False), ("iteration-1", True)):
        rows = [{**row, "correct": right} for row in evaluation_rows("sft")]
        table = pa.Table.from_pylist(rows, schema=EVALUATION_SCHEMA)
        finish(run, f"{folder}/evaluate", {}, 0.0, table)
    write_yaml(run.root / "recipe.yaml", {"name": "x", "seed": 0, "iterations": 1} | METHOD)
    write_json(run.root / "plan.json", plan_of(STAGES, 1).as_json())
    models = summary_of(run.root)["models"]

    assert [m["model"] for m in models] == ["M1", "M2"]
    assert models[1]["gain"] == {"difference": 1.0, "low": 1.0, "high": 1.0}


METHOD = {"method": {"name": "srlm"}}


def test_without_m1_there_is_no_gain(tmp_path: Path):
    root = write_run(tmp_path / "run")
    (root / "sft" / "evaluate" / "stage.json").unlink()
    models = summary_of(root)["models"]

    assert [m["model"] for m in models] == ["M0", "M2"]
    assert models[1]["gain"] is None


def test_what_the_pair_stage_recorded_is_passed_on(root: Path):
    summary = summary_of(root)

    assert summary["iterations"] == [{"iteration": 1, **PAIR_SUMMARY.as_json()}]
    assert (summary["name"], summary["method"], summary["seed"]) == ("hand-made", "cream", 3)
    assert summary["iterations_planned"] == 2


def test_the_constant_baseline_is_weighted_by_the_prompts_of_each_task(root: Path):
    summary = summarise_run(root)
    answers = {"a": (1.0, 1), "b": (0.0, 3)}
    other = {key: ConstantAnswer(answer="", accuracy=x, n=n) for key, (x, n) in answers.items()}

    assert summary.baseline["sums"].accuracy == 0.5
    assert overall_baseline(summary.baseline) == overall_baseline(other) == 0.25
    assert overall_baseline({}) is None


def test_seconds_are_told_per_stage_in_running_order(root: Path):
    """Stages of another folder (a backup, say) are none of this run's plan."""
    finish(Run(root), "backup/iteration-1/pair", {}, 99.0)
    finish(Run(root), "iteration-2-old/pair", {}, 99.0)
    finish(Run(root), "iteration-2/sample", {}, 3.0)
    summary = summarise_run(root)

    assert list(summary.seconds) == [
        "data/test",
        "data/seed",
        "seed-model/evaluate",
        "sft/train",
        "sft/evaluate",
        "iteration-1/sample",
        "iteration-1/score/M1",
        "iteration-1/pair",
        "iteration-1/evaluate",
        "iteration-2/sample",
    ]
    assert summary.seconds["sft/train"] == 10.0
    assert sum(summary.seconds.values()) == 40.75
    assert summary.seconds_by_kind == {
        "freeze_prompts": 0.0,
        "freeze_seed": 0.0,
        "evaluate": 1.0 + 2.0 + 4.0,
        "fine_tune": 10.0,
        "sample": 20.0 + 3.0,
        "score": 0.5,
        "pair": 0.25,
    }


def test_a_run_that_has_only_begun_has_an_empty_summary(tmp_path: Path):
    write_yaml(tmp_path / "recipe.yaml", {"name": "x", "seed": 0, "iterations": 1} | METHOD)
    write_json(tmp_path / "plan.json", plan_of(STAGES, 1).as_json())
    summary = summary_of(tmp_path)

    assert summary["models"] == summary["iterations"] == []
    assert summary["baseline"] == summary["seconds"] == summary["seconds_by_kind"] == {}


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match=r"holds no run \(no recipe\.yaml\)"):
        summarise_run(tmp_path)
