"""What a power cut leaves: whatever a mark speaks of is on the disk before the mark.

The first test watches a real run and keeps the most pessimistic disk that its `fsync` calls allow:
a file has the content of its last sync, a folder the names of its last sync. The second cuts the
power: it copies the image of a mounted ext4 without sync, mounts the copy, and goes on.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import multiprocessing.context
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cream.recipe import Recipe
from cream.runs.verification import verify_run
from run_contents import contents

MakeRecipe = Callable[..., Recipe]
RunWhole = Callable[..., Path]

CUTS = int(os.environ.get("CREAM_POWER_CUTS", "8"))
"""How often the power is cut by the slow test."""
CUTS_OF_A_RUN = 8
"""At most; a run that ends before has fewer."""


def digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest()


class PessimisticDisk:
    """What is surely on the disk, from the calls of a real program: contents and names synced."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root
        self.contents: dict[int, str] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.marks: list[Path] = []
        fsync, mkdir = os.fsync, os.mkdir

        def record_fsync(handle: int) -> None:
            fsync(handle)
            self._synced(Path(os.readlink(f"/proc/self/fd/{handle}")))

        def record_mkdir(path: Any, *rest: Any, **options: Any) -> None:
            mkdir(path, *rest, **options)
            self.names.pop(os.stat(path).st_ino, None)  # the number may be a deleted folder's

        monkeypatch.setattr(os, "fsync", record_fsync)
        monkeypatch.setattr(os, "mkdir", record_mkdir)
        for name in ("rename", "replace"):
            monkeypatch.setattr(os, name, self._renaming(getattr(os, name)))

    def _synced(self, path: Path) -> None:
        number = path.stat().st_ino
        if path.is_dir():
            self.names[number] = {inner.name: inner.stat().st_ino for inner in path.iterdir()}
        else:
            self.contents[number] = digest(path)

    def _renaming(self, rename: Callable[..., None]) -> Callable[..., None]:
        def record(source: Any, target: Any) -> None:
            rename(source, target)
            self._renamed(Path(target))

        return record

    def _renamed(self, target: Path) -> None:
        """A rename may reach the disk at once: a mark that it makes must find all it speaks of."""
        for mark in (target, target / "stage.json"):
            if mark.name == "stage.json" and mark.exists():
                self.check_stage(mark)
        if target.parent.name == "state":
            self.check_state(target)

    def surely(self, path: Path) -> str | None:
        """Digest of what a file surely has, or None if it may be gone."""
        place = self.root
        for name in path.relative_to(self.root).parts:
            here = self.names.get(place.stat().st_ino, {})
            place /= name
            if not place.exists() or here.get(name) != place.stat().st_ino:
                return None
        return self.contents.get(path.stat().st_ino)

    def check_stage(self, mark: Path) -> None:
        record = json.loads(mark.read_text(encoding="utf-8"))
        self.marks.append(mark)
        assert self.contents[mark.stat().st_ino] == digest(mark)
        model = record["spec"]["result"]
        run = mark.parents[1 + record["spec"]["name"].count("/")]
        # A stage that was taken over appears with its mark: its own folder's name cannot be sure.
        for folder, files in (
            (mark.parent, record["files"]),
            (run / "models" / str(model), record["model_files"]),
        ):
            for name, kept in files.items():
                assert self.surely(folder / name) == kept["blake2b"], f"{folder / name} for {mark}"

    def check_state(self, state: Path) -> None:
        for path in state.iterdir():
            assert self.contents[path.stat().st_ino] == digest(path)
            assert self.names[state.stat().st_ino][path.name] == path.stat().st_ino


def test_all_that_a_mark_speaks_of_is_on_the_disk_before_it(
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    monkeypatch: pytest.MonkeyPatch,
):
    disk = PessimisticDisk(tmp_path, monkeypatch)
    root = run_whole(tiny_recipe(tmp_path / "deep" / "run"))

    assert len(disk.marks) == len(list(root.rglob("stage.json"))) > 20
    for name in ("recipe.yaml", "plan.json", "summary.json"):
        assert disk.surely(root / name) == digest(root / name)


def test_the_pessimistic_disk_sees_what_was_not_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    disk = PessimisticDisk(tmp_path, monkeypatch)
    path = tmp_path / "a"
    path.write_text("1")
    handle = os.open(path, os.O_RDONLY)
    os.fsync(handle)
    assert disk.surely(path) is None  # its name is not sure
    folder = os.open(tmp_path, os.O_RDONLY)
    os.fsync(folder)
    assert disk.surely(path) == digest(path)
    path.write_text("2")

    assert disk.surely(path) != digest(path)
    os.close(handle)
    os.close(folder)


@contextmanager
def mounted(image: Path, place: Path) -> Iterator[None]:
    """Mount an ext4 image without the help that ext4 gives to programs that do not sync."""
    options = "loop,data=writeback,noauto_da_alloc,commit=2"
    subprocess.run(["mount", "-o", options, image, place], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True, capture_output=True)


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """An empty ext4 of 128 MiB, or a skip that says why there is none."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("mkfs.ext4", "mount", "umount"))):
        pytest.skip("cutting the power needs root, mount and mkfs.ext4")
    path = tmp_path / "disk.img"
    with path.open("wb") as stream:
        stream.truncate(128 << 20)
    subprocess.run(["mkfs.ext4", "-q", path], check=True, capture_output=True)
    place = tmp_path / "disk"
    place.mkdir()
    try:
        with mounted(path, place):
            pass
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop device can be mounted here: {error.stderr.decode().strip()}")
    return path


def forked(run_whole: RunWhole, recipe: Recipe) -> multiprocessing.context.ForkProcess:
    child = multiprocessing.get_context("fork").Process(target=run_whole, args=(recipe,))
    child.start()
    return child


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(-(-CUTS // CUTS_OF_A_RUN)))
def test_a_run_goes_on_after_the_power_was_cut_at_random_moments(
    seed: int,
    image: Path,
    tmp_path: Path,
    tiny_recipe: MakeRecipe,
    run_whole: RunWhole,
    finished_run: Path,
):
    """One run, paused while the image is copied, several times; each copy goes on to its end."""
    place, moments = tmp_path / "disk", random.Random(seed)
    recipe = tiny_recipe(place / "run")
    started = time.monotonic()
    cuts: list[Path] = []
    with mounted(image, place):
        child = forked(run_whole, recipe)
        while child.is_alive() and len(cuts) < CUTS_OF_A_RUN:
            time.sleep(moments.uniform(0.05, 2.0))
            os.kill(int(child.pid or 0), signal.SIGSTOP)
            cuts.append(Path(shutil.copyfile(image, tmp_path / f"cut-{len(cuts)}.img")))
            os.kill(int(child.pid or 0), signal.SIGCONT)
        child.join(timeout=600)
        assert child.exitcode == 0
    print(f"{len(cuts)} cuts in {time.monotonic() - started:.1f} s")
    begun = 0
    for cut in cuts:
        with mounted(cut, place):
            begun += (place / "run" / "recipe.yaml").exists()
            child = forked(
                run_whole, recipe
            )  # this process would keep weights mapped, the disk busy
            child.join(timeout=600)
            assert child.exitcode == 0
            assert verify_run(place / "run").whole
            found = contents(place / "run")
            # Deleted after its stage's mark was written, so it may be there again: it is not read.
            found = {name: v for name, v in found.items() if not name.endswith("begun.json")}
            assert found == contents(finished_run)
            for name in ("M1", "M2", "M3"):
                path = Path("models", name, "model.safetensors")
                assert (place / "run" / path).read_bytes() == (finished_run / path).read_bytes()
        cut.unlink()
    assert begun > 0
