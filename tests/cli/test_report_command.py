"""``cream report``: where the page goes, what is printed, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

Cream = Callable[..., Any]


def schema() -> Draft202012Validator:
    text = (resources.files("cream") / "schemas" / "report.json").read_text(encoding="utf-8")
    Draft202012Validator.check_schema(json.loads(text))
    return Draft202012Validator(json.loads(text))


def test_the_page_is_written_where_asked_and_told_as_its_schema_says(
    cream: Cream, finished_run: Path, tmp_path: Path
):
    """The tiny run has 8 prompts in each of 2 iterations and 12 test prompts."""
    result = cream("report", finished_run, "--out", tmp_path / "page.html", "--json")
    told = json.loads(result.out)

    assert result.code == 0, result.err
    schema().validate(told)
    assert told == {
        "path": str(tmp_path / "page.html"),
        "bytes": (tmp_path / "page.html").stat().st_size,
        "prompts": 28,
        "shown": 28,
        "records": "whole",
    }


def test_a_folder_with_every_record_is_told_alike(cream: Cream, finished_run: Path, tmp_path: Path):
    told = json.loads(cream("report", finished_run, "--full", tmp_path / "all", "--json").out)

    schema().validate(told)
    assert told["path"] == str(tmp_path / "all" / "index.html")
    assert (tmp_path / "all" / "records" / "00000.js").exists()


@pytest.mark.parametrize("where", [(), ("--out", "a.html", "--full", "b")])
def test_what_is_no_run_and_two_places_at_once_are_refused(
    where: tuple[str, ...], cream: Cream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    result = cream("report", tmp_path, *where)

    assert result.code == 2
    assert ("give one of them" if where else "holds no run") in " ".join(result.err.split())
    assert list(tmp_path.iterdir()) == []
