"""Exporting, publishing (never sent here) and outside benchmarks, as commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

Cream = Callable[..., Any]


def validate(value: Any, name: str) -> None:
    text = resources.files("cream").joinpath("schemas", f"{name}.json").read_text("utf-8")
    schema = json.loads(text)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(value, schema)


@pytest.mark.parametrize("kind", ["trl", "flipped"])
def test_export_writes_a_dataset_and_says_what(
    kind: str, cream: Cream, finished_run: Path, tmp_path: Path
):
    out = tmp_path / "pairs"
    arguments = ("export", kind, finished_run, "--out", out, "--iteration", 1)
    result = cream(*arguments, "--format", "parquet", "--json")
    again = cream(*arguments)

    assert result.code == 0, result.err
    written = json.loads(result.out)
    validate(written, "export")
    assert written["kind"] == kind
    assert Path(written["file"]).is_file()
    command = (
        f"cream export {kind} '<local>/run' --iteration 1 --out '<local>/pairs' --format parquet"
    )
    assert command in Path(written["card"]).read_text(encoding="utf-8")
    assert again.code == 2
    assert "exists already" in again.err


def test_export_tells_in_words_and_refuses_other_formats(
    cream: Cream, finished_run: Path, tmp_path: Path
):
    told = cream("export", "flipped", finished_run, "--out", tmp_path / "a")
    wrong = cream("export", "trl", finished_run, "--out", tmp_path / "b", "--format", "csv")

    assert "of them turned: " in told.out
    assert wrong.code == 2
    assert "--format csv is not known" in wrong.err


def test_push_dry_run_shows_files_and_card_and_sends_nothing(
    cream: Cream, finished_run: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("spoke to the network"))
    arguments = ("push", finished_run, "--model", "M3", "--to", "ada/tiny", "--dry-run")
    result, told = cream(*arguments, "--json"), cream(*arguments)

    assert result.code == told.code == 0, result.err
    value = json.loads(result.out)
    validate(value, "push")
    sizes = {entry["name"]: entry["bytes"] for entry in value["files"]}
    weights = finished_run / "models/M3/model.safetensors"
    assert sizes["model.safetensors"] == weights.stat().st_size
    assert {"config.json", "tokenizer.json", "README.md"} <= set(sizes)
    assert value["bytes"] == sum(sizes.values())
    assert value["url"] is None
    summary = json.loads((finished_run / "summary.json").read_text(encoding="utf-8"))
    (m3,) = [m["overall"] for m in summary["models"] if m["model"] == "M3"]
    assert f"| M3 | {100 * m3['accuracy']:.1f} % [" in value["card"]
    assert f"| {m3['n']} |" in value["card"]
    assert 'name = "ada/tiny"' in value["card"]
    assert value["card"] in told.out


def test_push_without_a_token_is_refused_before_anything_is_sent(
    cream: Cream, finished_run: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("spoke to the network"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "none"))
    result = cream("push", finished_run, "--model", "M3", "--to", "ada/tiny")

    assert result.code == 2
    assert "needs a token" in result.err
    assert "--dry-run" in result.err


@pytest.mark.parametrize(
    ("model", "to", "message"),
    [
        ("M9", "ada/tiny", "has no model M9; it has M1, M2, M3"),
        ("..", "ada/tiny", "has no model"),
        ("M3", "tiny", "must be owner/name"),
        ("M3", "ada/ti ny", "is not a name on the hub"),
    ],
)
def test_push_refuses_what_is_not_there(
    model: str, to: str, message: str, cream: Cream, finished_run: Path
):
    result = cream("push", finished_run, "--model", model, "--to", to, "--dry-run")

    assert result.code == 2
    assert message in result.err


TASK = """
task: local_parity
dataset_path: json
dataset_kwargs: {data_files: {test: DATA}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: ["0", "1"]
doc_to_target: "{{label}}"
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_lm_eval_measures_a_model_of_a_run_on_a_local_task(
    cream: Cream, finished_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """acc is a share of n examples; its standard error is sqrt(p (1 - p) / (n - 1))."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = [{"question": f"{a}+1=", "label": (a + 1) % 2} for a in range(10)]
    data = tmp_path / "tasks" / "parity.jsonl"
    data.parent.mkdir()
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (data.parent / "parity.yaml").write_text(TASK.replace("DATA", str(data)), encoding="utf-8")
    out = tmp_path / "results.json"
    arguments = ("eval", finished_run / "models/M2", "--lm-eval", "local_parity")
    arguments += ("--lm-eval-include", data.parent, "--out", out)
    result = cream(*arguments, "--json", "--lm-eval-limit", 8)

    assert result.code == 0, result.err
    value = json.loads(result.out)
    validate(value, "eval-lm-eval")
    assert json.loads(out.read_text(encoding="utf-8")) == value
    (task,) = value["tasks"]
    assert (task["task"], task["n"], task["of"]) == ("local_parity", 8, 10)
    (acc,) = task["metrics"]
    p = acc["value"]
    assert acc["metric"] == "acc"
    assert (8 * p) == pytest.approx(round(8 * p))
    assert acc["stderr"] == pytest.approx((p * (1 - p) / 7) ** 0.5)
    table = cream(*arguments)
    assert "local_parity" in table.out
    assert "10 of 10" in table.out
    unknown = cream("eval", finished_run / "models/M2", "--lm-eval", "no_such_task")
    assert unknown.code == 2
    assert "knows no task no_such_task" in unknown.err


def test_lm_eval_goes_with_no_other_source_and_must_be_installed(
    cream: Cream, finished_run: Path, monkeypatch: pytest.MonkeyPatch
):
    both = cream("eval", "x", "--lm-eval", "arc_easy", "--tasks", "gcd")
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    absent = cream("eval", finished_run / "models/M2", "--lm-eval", "arc_easy")

    assert "give one of --tasks, --recipe and --lm-eval" in both.err
    assert absent.code == both.code == 2
    assert "cream-align[lm-eval]" in absent.err
