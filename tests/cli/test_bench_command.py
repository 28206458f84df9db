"""``cream bench`` on a tiny model."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cream.testing import tiny_model_folder

Cream = Callable[..., Any]


@pytest.mark.slow
def test_bench_prints_json_by_its_schema_and_keeps_it_with_a_figure(cream: Cream, tmp_path: Path):
    """The tiny model has 512 positions, so the case of 400 + 100 tokens is left out."""
    folder = tiny_model_folder(tmp_path / "model")
    options = ("--quick", "--rounds", 1, "--allow-load", "--threads", 1, "--json", "--quiet")

    result = cream("bench", "scoring", "--model", folder, "--out", tmp_path / "results", *options)

    assert result.code == 0, result.err
    found = json.loads(result.out)
    text = resources.files("cream").joinpath("schemas/bench.json").read_text(encoding="utf-8")
    jsonschema.validate(found, json.loads(text))
    assert [row["name"] for row in found["rows"]] == ["scoring: P~100, R~100, 4 x 5"]
    assert [entry["name"] for entry in found["skipped"]] == ["scoring: P~400, R~100"]
    assert found["complete"]
    assert found == json.loads((tmp_path / "results/scoring.json").read_text(encoding="utf-8"))
    assert (tmp_path / "results/scoring.svg").read_text(encoding="utf-8").startswith("<svg")


def test_bench_refuses_a_part_that_does_not_exist(cream: Cream):
    result = cream("bench", "cooking")

    assert result.code == 2
    assert "cooking" in result.err


@pytest.mark.cluster
def test_workers_of_ray_are_timed_and_their_starts_apart(cream: Cream, tmp_path: Path):
    pytest.importorskip("ray", reason="needs Ray: `make test-cluster` installs it")
    folder = tiny_model_folder(tmp_path / "model")
    options = ("--quick", "--rounds", 1, "--allow-load", "--threads", 1, "--json", "--quiet")

    result = cream("bench", "workers", "--model", folder, "--device", "cpu", *options)

    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["complete"]
    assert len(found["rows"]) == 4
    assert [(p["curve"], p["x"]) for p in found["points"]] == [
        ("start of Ray", 3),
        ("start of workers", 1),
        ("start of workers", 2),
        ("model loaded, one prompt scored", 0),
        ("model loaded, one prompt scored", 1),
    ]
    assert found["machine"]["packages"]["ray"]
