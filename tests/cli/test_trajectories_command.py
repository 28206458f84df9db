"""`cream data trajectories`: seed data of a model's own answers, and a run that begins with it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from cream.algorithms.trajectories import segment
from cream.data.completion_spans import read_spans
from cream.recipe.trajectory import Phrases
from tiny_run import tiny_values

Cream = Callable[..., Any]
PHRASES = {
    "recheck": "?",
    "retry": "!",
    "correct": ["y"],
    "incorrect": ["n"],
    "joint": "",
    "confirm": "y",
    "reject": "n",
}


@pytest.fixture
def recipe(tmp_path: Path, tiny_inputs: Path) -> Path:
    """Of s2r, its seed data with answers."""
    rows = [
        {"prompt": f"{a}+{b}=", "completion": str((a + b) % 2), "answer": str((a + b) % 2)}
        for b in (6, 7)
        for a in range(8)
    ]
    seed = tmp_path / "seed.jsonl"
    seed.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    values: dict[str, Any] = tiny_values(tiny_inputs)
    values["method"] = {"name": "s2r", "phrases": PHRASES}
    source = {"source": "file", "path": str(seed), "verifier": "exact_match"}
    values["data"]["seed"] = {"sources": [source]}
    for role in ("prompts", "test"):
        (given,) = values["data"][role]["sources"]
        given["path"] = str(tiny_inputs / given["path"])
    values["sampling"]["max_completion_tokens"] = 10
    values["iterations"] = 1
    values["run_dir"] = str(tmp_path / "run")
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_own_answers_become_seed_data_that_a_run_reads(
    cream: Cream, recipe: Path, tmp_path: Path, finished_run: Path
):
    """M1 of the tiny run says 0 or 1 by chance: right ones are confirmed, wrong ones mended, and
    these alone are masked."""
    out = tmp_path / "trajectories.jsonl"
    options = ("--out", out, "--model", finished_run / "models/M1", "--json")
    told = cream("data", "trajectories", recipe, *options)
    assert told.code == 0, told.err
    tally = json.loads(told.out)["tally"]
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert tally["total"] == 16
    assert tally["parts"]["written"] == len(rows) > 0
    grammar = Phrases.model_validate(PHRASES).grammar
    mended = 0
    for row in rows:
        text, masked = read_spans(row["completion_spans"], None, "here")
        said = [text[p.opened : p.end] for p in segment(text, grammar)]
        answers, checks = said[::2], said[1::2]
        assert [answer == row["answer"] for answer in answers] == [c == "y" for c in checks]
        assert checks == ["n"] * (len(checks) - 1) + ["y"]
        assert [text[a:b] for a, b in masked] == answers[:-1]
        mended += len(answers) > 1
    assert mended > 0
    again = cream("data", "trajectories", recipe, *options)
    assert again.code == 2
    assert "--force" in again.err
    run = cream("run", recipe, "--set", f"data.seed.sources.0.path={out}", "--quiet")
    assert run.code == 0, run.err


def test_a_method_without_trajectories_and_data_without_answers_are_refused(
    cream: Cream, recipe: Path, tmp_path: Path
):
    out = ("--out", tmp_path / "x.jsonl")
    told = cream("data", "trajectories", recipe, *out, "--set", "method=cream")
    assert told.code == 2
    assert "reads no trajectories" in told.err
    without = ("--set", "data.seed.sources.0.verifier=null")
    told = cream("data", "trajectories", recipe, *out, *without)
    assert told.code == 2
    assert "none of 16 seed prompts can be verified" in " ".join(told.err.split())
    assert not (tmp_path / "x.jsonl").exists()


def test_a_model_that_answers_nothing_rightly_leaves_nothing_to_write(
    cream: Cream, recipe: Path, tmp_path: Path
):
    """M0 is random and writes bytes."""
    out = tmp_path / "x.jsonl"
    told = cream("data", "trajectories", recipe, "--out", out)
    assert told.code == 2
    assert "no trajectory could be written of 16 seed prompts" in " ".join(told.err.split())
    assert not out.exists()
