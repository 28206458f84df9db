"""`cream trust`: a report on labels that nothing was trained on, from which a run goes on."""

import json

import pyarrow.parquet as pq
from typer.testing import CliRunner

from cream.cli import app


def invoke(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_it_reports_on_labels_and_trains_on_none(recipe_file, tmp_path):
    options = ("--set", f"run_dir={tmp_path / 'run'}", "--set", "method.pairing.truncated=keep")
    report = json.loads(invoke("trust", str(recipe_file), *options, "--json", "--quiet"))

    rules = {rule["rule"]: rule for rule in report["rules"]}
    assert set(rules) == {"all completions say the same", "at least half say it"}
    assert report["all_labels"]["n"] == report["prompts"] > 0
    assert rules["at least half say it"]["trusted"] <= report["prompts"]
    run = tmp_path / "run"
    assert (run / "iteration-1/matrix/stage.json").exists()
    assert not (run / "iteration-1/train").exists()
    assert not (run / "sft/evaluate").exists()
    shown = invoke("trust", str(recipe_file), *options, "--quiet")
    assert "labels that M1 would give itself" in shown


def test_self_certainty_is_measured_beside_the_likelihoods_if_it_is_asked_for(
    recipe_file, tmp_path
):
    options = ("--set", f"run_dir={tmp_path / 'run'}", "--set", "scoring.self_certainty=true")
    keep = ("--set", "method.pairing.truncated=keep")
    report = json.loads(invoke("trust", str(recipe_file), *options, *keep, "--json", "--quiet"))

    measured = {signal["signal"]: signal for signal in report["signals"]}
    found = measured["self-certainty of the label"]
    assert sum(row["right"]["n"] for row in found["reliability"]) == found["n"] == report["prompts"]
    paths = sorted((tmp_path / "run/iteration-1/matrix").glob("*.parquet"))
    column = [v for path in paths for v in pq.read_table(path)["self_certainty"].to_pylist()]
    assert found["reliability"][-1]["most"] in column
    assert found["reliability"][0]["least"] >= min(column) > 0
