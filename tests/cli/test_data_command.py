"""``cream data prepare`` as a user calls it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema

Cream = Callable[..., Any]
SCHEMA = Path(__file__).parents[2] / "src/cream/schemas/data-prepare.json"


def gsm8k(folder: Path) -> Path:
    """A local copy of GSM8K with two questions, one of them without a result."""
    (folder / "main").mkdir(parents=True)
    rows = [
        {"question": "2 + 2?", "answer": "easy\n#### 4"},
        {"question": "3 + 3?", "answer": "no result"},
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "main" / "train.jsonl").write_text(text, encoding="utf-8")
    test = json.dumps({"question": "5 + 5?", "answer": "#### 10"})
    (folder / "main" / "test.jsonl").write_text(test + "\n", encoding="utf-8")
    return folder


def test_prepare_says_what_it_wrote_and_what_it_left_out(cream: Cream, tmp_path: Path):
    source = gsm8k(tmp_path / "in")
    result = cream("data", "prepare", "gsm8k", "--from", source, "--out", tmp_path / "out")

    assert result.code == 0, result.err
    assert "gsm8k.prompts.jsonl: 1 rows (of 2 read: kept 1, no_answer 1)" in result.out
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "gsm8k.manifest.json",
        "gsm8k.prompts.jsonl",
        "gsm8k.test.jsonl",
    ]


def test_the_json_is_the_manifest_and_valid_by_its_schema(cream: Cream, tmp_path: Path):
    source = gsm8k(tmp_path / "in")
    result = cream("data", "prepare", "gsm8k", "--from", source, "--out", tmp_path, "--json")
    value = json.loads(result.out)

    jsonschema.Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).validate(value)
    assert value == json.loads((tmp_path / "gsm8k.manifest.json").read_text(encoding="utf-8"))


def test_an_unknown_name_is_one_clear_line(cream: Cream, tmp_path: Path):
    result = cream("data", "prepare", "gsm", "--out", tmp_path)

    assert result.code == 2
    assert result.err == (
        "error: no public dataset 'gsm' is known; there are oasst1, arc, openbookqa, siqa, gsm8k\n"
    )


def test_the_help_names_every_dataset(cream: Cream):
    from cream.data.public import DATASETS

    help_text = cream("data", "prepare", "--help").out

    assert all(name in help_text for name in DATASETS)
