"""What every command prints with ``--json`` is what its schema says, and the schemas are strict."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from jsonschema import Draft202012Validator

from cream.cli.documents import documents, json_schema

Cream = Callable[..., Any]
SCHEMAS = resources.files("cream") / "schemas"


def schema(command: str) -> dict[str, Any]:
    return json.loads(SCHEMAS.joinpath(f"{command}.json").read_text(encoding="utf-8"))


def faults(command: str, value: Any) -> list[str]:
    found = Draft202012Validator(schema(command)).iter_errors(value)
    return [f"{error.json_path}: {error.message[:200]}" for error in found]


def printed(cream: Cream, *arguments: object) -> Any:
    result = cream(*arguments, "--json")
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.fixture
def tiny_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CREAM_CACHE", str(tmp_path / "cache"))


def test_the_schemas_are_those_of_the_records():
    """Run scripts/write_schemas.py after a change of a record."""
    assert {p.name.removesuffix(".json") for p in SCHEMAS.iterdir()} == set(documents())
    for command in documents():
        assert schema(command) == json_schema(command)


@pytest.mark.parametrize("name", sorted(p.name for p in SCHEMAS.iterdir()))
def test_a_schema_is_one_and_names_its_command(name: str):
    content = json.loads(SCHEMAS.joinpath(name).read_text(encoding="utf-8"))

    Draft202012Validator.check_schema(content)
    assert content["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert content["title"].startswith("cream ")
    assert content["title"].endswith(" --json")


def test_run_and_status_of_a_finished_run(cream: Cream, finished_run: Path, recipe_file: Path):
    again = ("--set", f"run_dir={finished_run}", "--quiet")

    assert faults("run", printed(cream, "run", recipe_file, *again)) == []
    assert faults("status", printed(cream, "status", finished_run)) == []


def test_status_of_a_run_that_has_hardly_begun(cream: Cream, recipe_file: Path):
    assert cream("sample", recipe_file).code == 2  # makes the run directory, and asks for M1

    assert faults("status", printed(cream, "status", recipe_file.parent / "run")) == []


def test_pairs_made_again(cream: Cream, finished_run: Path, tmp_path: Path):
    for number, method in enumerate(("cream", "srlm", "scpo", "cream_pair")):
        change = f"method={{name: {method}, pairing: {{truncated: keep}}}}"
        out = ("--out", tmp_path / str(number))
        value = printed(cream, "pair", "--from", finished_run, "--set", change, *out)
        assert faults("pair", value) == []


def test_plan_with_and_without_timing(cream: Cream, recipe_file: Path, finished_run: Path):
    done = ("--set", f"run_dir={finished_run}")
    values = [
        printed(cream, "plan", recipe_file),
        printed(cream, "plan", recipe_file, "--no-timing"),
        printed(cream, "plan", recipe_file, "--no-calibrate", *done),
    ]

    assert [faults("plan", value) for value in values] == [[], [], []]


@pytest.mark.usefixtures("tiny_cache")
def test_doctor_and_models(cream: Cream):
    assert faults("doctor", printed(cream, "doctor")) == []
    assert faults("doctor", printed(cream, "doctor", "--no-measure")) == []
    assert faults("models", printed(cream, "models")) == []


@pytest.mark.parametrize("question", ["consistency", "pair", "reward"])
def test_explain(question: str, cream: Cream, finished_run: Path):
    table = pq.read_table(finished_run / "iteration-1/pair/prompts.parquet")
    for prompt in table["prompt_id"].to_pylist():
        value = printed(cream, "explain", question, finished_run, "--prompt", prompt)
        assert faults("explain", value) == []


def test_eval(cream: Cream, finished_run: Path, recipe_file: Path):
    value = printed(
        cream, "eval", finished_run / "models" / "M2", "--recipe", recipe_file, "--quiet"
    )

    assert faults("eval", value) == []


def test_single_stages(cream: Cream, finished_run: Path, recipe_file: Path):
    done = (recipe_file, "--set", f"run_dir={finished_run}", "--quiet")
    for command in ("sample", "score", "pair", "train"):
        assert faults(command, printed(cream, command, *done)) == []


def test_a_schema_notices_a_key_that_it_does_not_know(cream: Cream):
    value = printed(cream, "models")

    assert faults("models", [{**value[0], "size": 1}])
    assert faults("models", [{k: v for k, v in value[0].items() if k != "folder"}])
