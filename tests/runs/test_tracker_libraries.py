"""The trackers against the real libraries, offline: what was logged is read back from their stores.

Every test logs two stages, is closed in the middle of the first as an interruption would, opens
again and logs the rest, so that resuming is read back as well.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cream.recipe.trackers import (
    MlflowConfig,
    TensorBoardConfig,
    TrackerConfig,
    TrackioConfig,
    WandbConfig,
)
from cream.runs.trackers import TrackedRun, open_trackers

pytestmark = pytest.mark.slow

COURSE = [{"loss": 1.0 / step, "rewards/margins": 0.5 * step} for step in range(1, 5)]
EXPECTED = {
    "sft/train": [(step, COURSE[step - 1]) for step in (1, 2, 3, 4)],
    "models": [(0, {"accuracy": 0.25}), (1, {"accuracy": 0.5})],
}
"""What every library must hold afterwards: per stage its steps, names as the field has them."""

Held = dict[str, list[tuple[int, dict[str, float]]]]


def log_twice(config: TrackerConfig, root: Path) -> None:
    """Two openings; the second makes steps 2 to 4, of which step 2 was sent before."""
    recipe = {"name": "x", "seed": 1, "method": {"name": "cream"}}
    warnings: list[str] = []
    first = open_trackers([config], TrackedRun("x", root, recipe), warnings.append)
    first.point("models", 0, {"accuracy": 0.25})
    first.live("sft/train", 1, COURSE[0])
    first.live("sft/train", 2, COURSE[1])
    first.close()
    time.sleep(1.1)  # event files are ordered by the second in their names, as processes are
    second = open_trackers([config], TrackedRun("x", root, recipe), warnings.append)
    second.point("models", 0, {"accuracy": 0.25})
    for step in (2, 3, 4):
        second.live("sft/train", step, COURSE[step - 1])
    second.course("sft/train", COURSE)
    second.point("models", 1, {"accuracy": 0.5})
    second.close()
    assert warnings == []


def approximately(held: Held) -> Any:
    """The same with values rounded to float32's digits, in which event files keep them."""
    return {
        stage: [(step, {k: pytest.approx(v, rel=1e-6) for k, v in m.items()}) for step, m in points]
        for stage, points in held.items()
    }


def test_tensorboard_event_files_hold_each_step_once(tmp_path: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log_twice(TensorBoardConfig(), tmp_path)
    held: Held = {}
    for stage in EXPECTED:
        events = EventAccumulator(str(tmp_path / "tensorboard" / stage))
        events.Reload()
        points: dict[int, dict[str, float]] = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                assert tag not in points.setdefault(event.step, {}), "a point stands twice"
                points[event.step][tag] = event.value
        held[stage] = sorted(points.items())

    assert held == approximately(EXPECTED)


def test_tensorboard_writes_where_the_recipe_says(tmp_path: Path):
    folder = tmp_path / "elsewhere"
    log_twice(TensorBoardConfig(folder=str(folder)), tmp_path / "run")

    assert {p.parent.relative_to(folder).as_posix() for p in folder.rglob("events*")} == {
        "sft/train",
        "models",
    }


def test_mlflow_holds_each_step_once_in_one_run_per_stage(tmp_path: Path):
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    log_twice(MlflowConfig(uri=uri, experiment="tests"), tmp_path / "run")
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("tests")
    assert experiment is not None
    held: Held = {}
    for run in client.search_runs([experiment.experiment_id]):
        points: dict[int, dict[str, float]] = {}
        for name in run.data.metrics:
            for metric in client.get_metric_history(run.info.run_id, name):
                assert name not in points.setdefault(metric.step, {}), "a point stands twice"
                points[metric.step][name] = metric.value
        assert run.info.run_name == f"x {run.data.tags['cream.stage']}"
        assert run.info.status == "FINISHED"
        assert json.loads(run.data.params["method"]) == {"name": "cream"}
        assert run.data.tags["cream.stage"] not in held, "a stage has two runs"
        held[run.data.tags["cream.stage"]] = sorted(points.items())

    assert held == EXPECTED


def test_trackio_holds_each_step_once_in_one_run_per_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    import trackio
    from trackio.sqlite_storage import SQLiteStorage

    del trackio
    for module in ("trackio.utils", "trackio.sqlite_storage"):
        monkeypatch.setattr(f"{module}.TRACKIO_DIR", tmp_path / "trackio")
    log_twice(TrackioConfig(project="tests"), tmp_path / "run")
    key = json.loads((tmp_path / "run/trackers/trackio.json").read_text())["key"]
    held: Held = {}
    for stage in EXPECTED:
        logs = SQLiteStorage.get_logs("tests", f"x-{key}/{stage}")
        held[stage] = [
            (row["step"], {k: v for k, v in row.items() if k not in ("step", "timestamp")})
            for row in logs
        ]

    assert held == EXPECTED
    assert len(SQLiteStorage.get_runs("tests")) == 2
    assert capsys.readouterr().out == ""  # results of a command go there, and nothing else


def test_wandb_offline_files_hold_each_step_once_under_one_id_per_stage(tmp_path: Path):
    log_twice(WandbConfig(mode="offline", project="tests", tags=["t"]), tmp_path)
    key = json.loads((tmp_path / "trackers/wandb.json").read_text())["key"]
    held: Held = {}
    for stage in EXPECTED:
        files = sorted(tmp_path.rglob(f"run-{key}-{stage.replace('/', '-')}.wandb"))
        assert files
        rows = [row for file in files for row in wandb_history(file)]
        held[stage] = [
            (int(row["_step"]), {k: v for k, v in row.items() if not k.startswith("_")})
            for row in rows
        ]

    assert held == EXPECTED


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (MlflowConfig(uri="http://127.0.0.1:1"), "MlflowException"),
        (WandbConfig(mode="online"), "No API key configured"),
    ],
)
def test_a_server_or_login_that_is_not_there_costs_a_warning_and_no_minutes(
    config: TrackerConfig, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name, raising=False)
    warnings: list[str] = []
    begun = time.monotonic()
    trackers = open_trackers([config], TrackedRun("x", tmp_path, {}), warnings.append)
    trackers.point("models", 0, {"accuracy": 0.25})
    trackers.point("models", 1, {"accuracy": 0.25})
    trackers.close()

    assert len(warnings) == 1
    assert f"tracker {config.name} failed at models step 0" in warnings[0]
    assert reason in warnings[0]
    assert time.monotonic() - begun < 40


def wandb_history(file: Path) -> list[dict[str, Any]]:
    """Rows of history in an offline file, parsed with wandb's own protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    rows = []
    for data in leveldb_records(file.read_bytes()):
        record = vars(wandb_internal_pb2)["Record"]()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = record.history.item
            row = {i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items}
            rows.append({"_step": record.history.step.num, **row})
    return rows


def leveldb_records(raw: bytes) -> Iterator[bytes]:
    """Records of a LevelDB log: blocks of 32 KiB, in them chunks of (crc, length, type, data)."""
    place, whole = 7, b""  # wandb puts seven bytes of its own before the first chunk
    while place + 7 <= len(raw):
        left = 32768 - place % 32768
        if left < 7:
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", raw, place)
        whole += raw[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # a whole record, or the last chunk of one
            yield whole
            whole = b""
