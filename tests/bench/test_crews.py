"""Workers timed against this process; without Ray, three engines of this process stand for them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from cream.bench import crews
from cream.bench.crews import HERE, ONE, TWO, WorkersBench
from cream.bench.inputs import Subject, load_subject
from cream.bench.machine import LoadWatch
from cream.engines.checkpoints import Checkpoints
from cream.engines.engine import OnTorch
from cream.errors import BenchmarkError
from cream.recipe.model import ModelConfig
from cream.testing import tiny_model_folder

WATCH = LoadWatch(allowed=True, sleep=lambda seconds: None)


def subject(folder: Path) -> Subject:
    config = ModelConfig(name=str(folder), device="cpu", compute_dtype="float32")
    return load_subject(config, folder.parent)


def on(folder: Path) -> OnTorch:
    where = Checkpoints(
        folder=folder / "none",
        seed_folder=folder,
        seed_name="tiny",
        tokenizer=None,
        device=torch.device("cpu"),
        compute_dtype=torch.float32,
        context_length=512,
    )
    return OnTorch(where)


def test_two_workers_are_held_against_twice_the_rate_of_one(tmp_path: Path):
    folder = tiny_model_folder(tmp_path / "model")
    engines = {name: on(folder) for name in (HERE, ONE, TWO)}

    rows = list(WorkersBench(subject(folder), WATCH, 2, True, engines).rows())

    assert [(row.name, row.baseline) for row in rows] == [
        ("sampling: 1 worker", "this process"),
        ("sampling: 2 workers", "twice 1 worker"),
        ("scoring: 1 worker", "this process"),
        ("scoring: 2 workers", "twice 1 worker"),
    ]
    for one, two in (rows[:2], rows[2:]):
        assert two.theirs == pytest.approx(2 * one.ours)
        assert two.ratio == pytest.approx(two.ours / (2 * one.ours))


def test_the_work_is_counted_in_tokens(tmp_path: Path):
    found = subject(tiny_model_folder(tmp_path / "model"))
    engine = on(found.folder)

    sampled = crews.sampling_job(found, quick=True)
    assert sum(sampled.work(sampled.make(engine, shard)) for shard in sampled.shards) == 8 * 5 * 8

    scored = crews.scoring_job(found, quick=True)
    tokens = sum(len(c) for shard in scored.shards for r in shard for c in r.completions)
    assert sum(scored.work(scored.make(engine, shard)) for shard in scored.shards) == tokens


def test_workers_that_make_other_parts_are_refused(tmp_path: Path):
    folder = tiny_model_folder(tmp_path / "model")
    engines = {name: on(folder) for name in (HERE, ONE)}
    engines[TWO] = on(tiny_model_folder(tmp_path / "other", seed=1))

    with pytest.raises(BenchmarkError, match="sampling: 2 workers made other parts"):
        list(WorkersBench(subject(folder), WATCH, 1, True, engines).rows())


def test_what_workers_need_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = subject(tiny_model_folder(tmp_path / "model"))

    monkeypatch.setattr(crews, "find_spec", lambda name: None)
    assert "Ray is not installed" in str(crews.why_no_workers(found, allow_load=False))
