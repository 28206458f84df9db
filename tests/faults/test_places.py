"""Run directories that are moved, shared, read-only, or hold what Cream did not write."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cream.errors import RunError
from cream.recipe import Recipe
from cream.report.summary import status_of
from cream.runs.store import Run
from cream.runs.verification import verify_run
from run_contents import contents
from tiny_run import Silence

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]


class Notes(Silence):
    """A `Progress` that keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def run_copy(finished_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished_run, tmp_path / "run"))


def unfinish(root: Path, stage: str) -> Path:
    """Make a finished stage of parts one that is under way, with all of its parts."""
    from cream.runs.files import read_sealed, write_sealed

    folder = root / stage
    record = read_sealed(folder / "stage.json")
    parts = {name: mark for name, mark in record["files"].items() if name.startswith("part-")}
    begun = {"inputs": record["inputs"], "made_by": record["made_by"], "parts": parts}
    write_sealed(folder / "begun.json", begun)
    (folder / "stage.json").unlink()
    return folder


def test_a_moved_run_goes_on_where_it_is(
    run_copy: Path,
    finished_run: Path,
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
):
    moved = tmp_path / "elsewhere" / "again"
    moved.parent.mkdir()
    run_copy.rename(moved)
    shutil.rmtree(moved / "iteration-2" / "train")
    shutil.rmtree(moved / "iteration-2" / "evaluate")
    shutil.rmtree(moved / "models" / "M3")
    run_whole(tiny_recipe(moved))

    assert verify_run(moved).whole
    assert contents(moved) == contents(finished_run)


def test_a_second_process_is_refused_while_the_first_goes_on(tmp_path: Path):
    root = tmp_path / "run"
    read, write = os.pipe()
    with Run(root).locked():
        child = os.fork()
        if child == 0:
            try:
                with Run(root).locked():
                    os.write(write, b"held twice")
            except RunError as error:
                os.write(write, str(error).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
    assert os.read(read, 200).decode() == f"another cream process is using {root}"
    with Run(root).locked():
        pass


@pytest.mark.parametrize("damage", ["a stray part", "a foreign part", "a flipped bit", "half"])
def test_a_part_that_this_stage_did_not_write_is_named_and_made_again(
    damage: str,
    run_copy: Path,
    finished_run: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
):
    stage = unfinish(run_copy, "iteration-1/sample")
    part = stage / "part-00001.parquet"
    match damage:
        case "a stray part":
            part = stage / "part-00099.parquet"
            shutil.copy(stage / "part-00000.parquet", part)
        case "a foreign part":
            shutil.copy(run_copy / "iteration-2/sample/part-00001.parquet", part)
        case "a flipped bit":
            data = bytearray(part.read_bytes())
            data[-20] ^= 1  # in the footer, which no checksum of a page covers
            part.write_bytes(bytes(data))
        case _:
            part.write_bytes(part.read_bytes()[:100])
    notes = Notes()
    run_whole(tiny_recipe(run_copy), notes)

    assert any(str(part) in text and "made again" in text for text in notes.said)
    assert contents(run_copy) == contents(finished_run)


def test_a_stage_of_another_run_is_refused(
    run_copy: Path, tmp_path: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    other = run_whole(tiny_recipe(tmp_path / "other", "seed=2", "iterations=1"))
    shutil.rmtree(run_copy / "iteration-1" / "pair")
    shutil.copytree(other / "iteration-1" / "pair", run_copy / "iteration-1" / "pair")

    with pytest.raises(RunError, match="made from other inputs"):
        run_whole(tiny_recipe(run_copy))


def test_files_that_are_nobodys_do_not_disturb_and_stay(
    run_copy: Path, finished_run: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    notes = [run_copy / "notes.txt", run_copy / "iteration-1" / "sample" / ".DS_Store"]
    for path in notes:
        path.write_text("mine")
    run_whole(tiny_recipe(run_copy))

    assert all(path.read_text() == "mine" for path in notes)
    assert verify_run(run_copy).whole


@pytest.fixture
def read_only(finished_run: Path, tmp_path: Path) -> Iterator[Path]:
    """The finished run on a disk that cannot be written, which holds for root too."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("a disk that cannot be written needs root and mount")
    try:
        shutil.copytree(finished_run, place / "run")
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        yield place / "run"
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_read_only_run_can_be_read_and_going_on_is_one_sentence(
    read_only: Path, tiny_recipe: MakeRecipe, run_whole: RunWhole
):
    assert verify_run(read_only).whole
    assert status_of(read_only).summary.name == "tiny"
    with pytest.raises(RunError, match=r"\.lock cannot be opened \(Read-only file system\)"):
        run_whole(tiny_recipe(read_only))
