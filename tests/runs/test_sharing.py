from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pyarrow as pa
import pytest

from cream.errors import RunError
from cream.records import StageSpec
from cream.runs.sharing import POINTER, is_untouched, lendable, take_folder, take_stage
from cream.runs.store import Run, Stage


def spec(name: str) -> StageSpec:
    return StageSpec(name=name, kind="sample", label=name)


def finished(run: Run, inputs: dict[str, int]) -> Stage:
    stage = run.stage(spec("iteration-1/sample"), inputs)
    stage.begin()
    stage.write_part(0, pa.table({"x": [1, 2]}), 0.5)
    stage.finish({"completions": 2}, 0.5)
    return stage


@pytest.fixture
def lender(tmp_path: Path) -> Run:
    run = Run(tmp_path / "lender")
    finished(run, {"seed": 1})
    return run


def test_a_stage_of_the_same_inputs_is_lendable_and_no_other(lender: Run, tmp_path: Path):
    taker = Run(tmp_path / "taker")

    assert lendable(taker.stage(spec("iteration-1/sample"), {"seed": 1}), lender) is not None
    assert lendable(taker.stage(spec("iteration-1/sample"), {"seed": 2}), lender) is None
    assert lendable(taker.stage(spec("iteration-2/sample"), {"seed": 1}), lender) is None
    assert (
        lendable(taker.stage(spec("iteration-1/sample"), {"seed": 1}), Run(tmp_path / "no")) is None
    )


def test_a_lender_that_lost_a_file_is_named(lender: Run, tmp_path: Path):
    (lender.root / "iteration-1/sample/part-00000.parquet").unlink()
    stage = Run(tmp_path / "taker").stage(spec("iteration-1/sample"), {"seed": 1})

    with pytest.raises(RunError, match="parquet is missing"):
        lendable(stage, lender)


def test_a_taken_stage_is_finished_and_outlives_the_lender(lender: Run, tmp_path: Path):
    taker = Run(tmp_path / "deep" / "taker")
    stage = taker.stage(spec("iteration-1/sample"), {"seed": 1})
    found = lendable(stage, lender)
    assert found is not None
    take_stage(stage, found, lender)

    pointer = json.loads((stage.folder / POINTER).read_text(encoding="utf-8"))
    assert (stage.folder / pointer["run"]).resolve() == lender.root.resolve()
    assert os.path.samefile(stage.part(0), found.part(0))
    for path in found.folder.iterdir():
        path.unlink()
    record = taker.finished("iteration-1/sample").finished()
    assert record is not None
    assert (record.seconds, record.summary) == (0.5, {"completions": 2})


def test_a_stage_taken_twice_over_points_to_its_last_lender(lender: Run, tmp_path: Path):
    second, third = Run(tmp_path / "second"), Run(tmp_path / "third")
    for taker, giver in ((second, lender), (third, second)):
        stage = taker.stage(spec("iteration-1/sample"), {"seed": 1})
        found = lendable(stage, giver)
        assert found is not None
        take_stage(stage, found, giver)

    pointer = json.loads((third.root / "iteration-1/sample" / POINTER).read_text("utf-8"))
    assert pointer == {"run": "../../../second"}


def test_only_a_stage_that_was_not_begun_may_be_taken(tmp_path: Path):
    """An empty folder, or one with a killed first write, is no beginning."""
    stage = Run(tmp_path).stage(spec("iteration-1/sample"), {"seed": 1})

    assert is_untouched(stage)
    stage.folder.mkdir(parents=True)
    (stage.folder / ".tmp-begun.json").write_text("half")
    assert is_untouched(stage)
    stage.begin()
    assert not is_untouched(stage)


def test_files_are_copied_where_the_file_system_has_no_links(
    lender: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def no_links(source: Path, target: Path) -> None:
        raise OSError(errno.EOPNOTSUPP, "no links here")

    monkeypatch.setattr(os, "link", no_links)
    take_folder(lender.root, tmp_path / "copy", {})
    theirs, ours = (r / "iteration-1/sample/stage.json" for r in (lender.root, tmp_path / "copy"))

    assert ours.read_bytes() == theirs.read_bytes()
    assert not os.path.samefile(ours, theirs)


def test_another_trouble_with_links_is_not_covered_up(
    lender: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def full(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "link", full)

    with pytest.raises(OSError, match="No space"):
        take_folder(lender.root, tmp_path / "copy", {})
    assert not (tmp_path / "copy").exists()


def test_a_folder_takes_the_place_of_an_interrupted_one_with_some_texts_its_own(tmp_path: Path):
    source, target = tmp_path / "source", tmp_path / "models" / "M1"
    for folder, weights in ((source, "whole"), (target, "half")):
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(weights)
    (source / "README.md").write_text("theirs")
    (tmp_path / "models" / ".tmp-M1").mkdir()
    take_folder(source, target, {"README.md": "ours"})

    assert (target / "model.safetensors").read_text() == "whole"
    assert (target / "README.md").read_text() == "ours"
    assert (source / "README.md").read_text() == "theirs"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["M1"]
