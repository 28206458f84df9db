"""What a crew does when workers die, raise, differ, or cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import poisoned
import pyarrow.parquet as pq
import pytest
from crews import checkpoints, engine, sample_parts
from poisoned import Poisoned, Unborn, Unlike

from cream.engines.crew_engine import open_crew
from cream.engines.crew_worker import Worker
from cream.engines.engine import EngineChoice
from cream.errors import EngineError, ModelError, NotFiniteError, RecipeError
from cream.protocols import SamplingParams
from cream.recipe.cluster import RayCluster
from cream.recipe.engine import TorchEngine
from cream.runs.files import read_json
from cream.runs.store import BROKEN

pytestmark = pytest.mark.cluster
PARAMS = SamplingParams(temperature=1.0, top_p=1.0, max_completion_tokens=4, stop_ids=(2,))


@pytest.fixture(autouse=True)
def by_value(request: pytest.FixtureRequest) -> None:
    """Workers do not find the modules of tests."""
    if "ray" in request.fixturenames:
        request.getfixturevalue("ray").cloudpickle.register_pickle_by_value(poisoned)


def test_a_prompt_that_kills_workers_is_named_and_whole_parts_stay(
    ray: Any, tmp_path: Path, tiny_inputs: Path, silence: Any
):
    on = engine(tmp_path, tiny_inputs, Poisoned, deaths_per_shard=2)
    with pytest.raises(EngineError, match=r"part 2: 2 workers died .*: poison, last\. Look"):
        sample_parts(on, tmp_path, [["a"], ["b"], ["poison", "last"]], silence)
    assert sorted(p.name for p in (tmp_path / "stage").glob("part-*")) == [
        "part-00000.parquet",
        "part-00001.parquet",
    ]


def test_what_a_worker_raises_is_raised_once_the_other_lanes_are_kept(
    ray: Any, tmp_path: Path, tiny_inputs: Path, silence: Any
):
    """Part 1 is under way (0.5 s) when part 0 is refused; part 2 is not begun any more."""
    on = engine(tmp_path, tiny_inputs, Poisoned)
    with pytest.raises(ModelError, match=r"^part 0: this prompt is refused$"):
        sample_parts(on, tmp_path, [["refused"], ["a"], ["b"]], silence)
    kept = [p.name for p in (tmp_path / "stage").glob("part-*")]
    assert kept == ["part-00001.parquet"]


def test_what_is_not_finite_in_a_worker_is_kept_by_the_driver(
    ray: Any, tmp_path: Path, tiny_inputs: Path, silence: Any
):
    on = engine(tmp_path, tiny_inputs, Poisoned)
    with pytest.raises(
        NotFiniteError, match=r"^stage stage: part 0: logits are NaN\. The batch is"
    ):
        sample_parts(on, tmp_path, [["nan", "b"], ["a"]], silence)
    assert read_json(tmp_path / "stage" / BROKEN) == {"prompt_ids": ["nan", "b"]}


def test_an_error_that_is_not_ours_names_worker_and_error(
    ray: Any, tmp_path: Path, tiny_inputs: Path, silence: Any
):
    on = engine(tmp_path, tiny_inputs, Poisoned)
    with pytest.raises(EngineError, match=r"worker \d+ on .* failed \(ValueError: .*nothing was"):
        sample_parts(on, tmp_path, [["broken"]], silence)


def test_workers_that_differ_are_refused_before_anything_is_sampled(
    ray: Any, tmp_path: Path, tiny_inputs: Path, silence: Any
):
    on = engine(tmp_path, tiny_inputs, Unlike)
    with pytest.raises(EngineError, match=r"workers differ in cream: \d+ on .*, \d+ on "):
        sample_parts(on, tmp_path, [["a"], ["b"]], silence)
    assert not list((tmp_path / "stage").glob("part-*"))


def test_workers_that_cannot_start_end_the_run_with_their_reason(
    ray: Any, tmp_path: Path, tiny_inputs: Path, silence: Any
):
    on = engine(tmp_path, tiny_inputs, Unborn)
    with pytest.raises(EngineError, match=r"no worker for \d+ s: .*no such device"):
        sample_parts(on, tmp_path, [["a"]], silence)


def test_a_cluster_without_room_ends_the_run_after_start_seconds(
    ray: Any, tmp_path: Path, tiny_inputs: Path, silence: Any
):
    on = engine(tmp_path, tiny_inputs, Worker, cpus_per_worker=64, start_seconds=2)
    with pytest.raises(EngineError, match=r"none found a place; each asks for 0 GPUs and 64 CPUs"):
        sample_parts(on, tmp_path, [["a"]], silence)


def test_parts_are_equal_for_every_number_of_workers_and_say_who_made_them(
    ray: Any, tmp_path: Path, tiny_inputs: Path, silence: Any
):
    parts = [["a", "b"], ["c"], ["d", "e", "f"]]
    tables = []
    for name, workers in (("one", 1), ("three", 3)):
        on = engine(tmp_path / name, tiny_inputs, Worker, workers=workers)
        stage = sample_parts(on, tmp_path / name, parts, silence)
        tables.append([pq.read_table(path).to_pylist() for path in stage.parts()])
        made_by = pq.read_schema(stage.parts()[0]).metadata[b"made_by"]
        assert b"worker" in made_by
        assert b'"threads": 1' in made_by
    assert tables[0] == tables[1]


def test_what_workers_cannot_do_is_refused_by_section(tmp_path: Path, tiny_inputs: Path):
    pytest.importorskip("ray", reason="needs Ray: `make test-cluster` installs it")
    choice = EngineChoice(TorchEngine(), "asked for")
    given = {"token_budget": 4096, "run_dir": tmp_path}
    for config, brings, message in (
        (RayCluster(gpus_per_worker=2), False, "gpus_per_worker: 2 GPUs share the weights only in"),
        (RayCluster(), True, "a sampler given in Python works in this process"),
    ):
        with pytest.raises(RecipeError, match=message):
            open_crew(
                config, choice, checkpoints(tmp_path, tiny_inputs), brings_sampler=brings, **given
            )


def test_a_relative_run_dir_of_a_submitted_job_is_refused(
    tmp_path: Path, tiny_inputs: Path, monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("ray", reason="needs Ray: `make test-cluster` installs it")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    with pytest.raises(RecipeError, match="run_dir: runs/x is relative, and a submitted job"):
        open_crew(
            RayCluster(),
            EngineChoice(TorchEngine(), "asked for"),
            checkpoints(tmp_path, tiny_inputs),
            token_budget=4096,
            run_dir=Path("runs/x"),
            brings_sampler=False,
        )
