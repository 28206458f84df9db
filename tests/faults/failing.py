"""Every write, sync and rename of a run fails once, and the disk is full at every size.

    python tests/faults/failing.py

The k-th call of `os.fsync`, `os.rename`, `os.replace`, `os.mkdir` or `os.open` below the run fails
with an input/output error; or the run lies on a disk of so many KiB (tmpfs, needs root). Right: one
error of Cream or of the system, that names a file; and the same run, gone on with afterwards, ends
with the result of an untouched one.
"""

from __future__ import annotations

import argparse
import errno
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from killing import Work, attempt, held, work_of

from cream.errors import CreamError
from tiny_run import write_inputs

CALLS = ("fsync", "rename", "replace", "mkdir", "open")
REFUSED, UNTOUCHED, UNNAMED = 3, 4, 5
"""Exit codes of an attempt: one error that names a file; nothing failed; one without a file."""


@dataclass
class Failed:
    """What became of the failures of one kind."""

    kind: str
    tried: int = 0
    wrong: str = ""


def failing(work: Work, call: str, at: int) -> Work:
    """The same work, in which the `at`-th call (from 1) below the folder fails."""

    def run(root: Path) -> None:
        counter = [0]
        _inject(call, root, counter, at)
        _exit_by_error(lambda: work(root))
        os._exit(UNTOUCHED if counter[0] < at else 0)

    return run


def counting(work: Work, call: str, note: Path) -> Work:
    """The same work, which leaves the number of calls in a file."""

    def run(root: Path) -> None:
        counter = [0]
        _inject(call, root, counter, -1)
        work(root)
        note.write_text(str(counter[0]))

    return run


def _inject(call: str, root: Path, counter: list[int], at: int) -> None:
    true: Callable[..., Any] = getattr(os, call)

    def stand_in(place: Any, *rest: Any, **options: Any) -> Any:
        path = os.readlink(f"/proc/self/fd/{place}") if isinstance(place, int) else os.fspath(place)
        if str(path).startswith(str(root)):
            counter[0] += 1
            if counter[0] == at:
                raise OSError(errno.EIO, os.strerror(errno.EIO), None if call == "fsync" else path)
        return true(place, *rest, **options)

    setattr(os, call, stand_in)


def _exit_by_error(work: Callable[[], Any]) -> None:
    try:
        work()
    except CreamError:
        os._exit(REFUSED)
    except OSError as error:
        os._exit(REFUSED if error.filename else UNNAMED)


def fail_calls(mode: str, call: str, folder: Path, inputs: Path, every: int) -> Failed:
    """Fail each `every`-th call of a kind, once each."""
    told, work = Failed(f"{mode} {call}"), work_of(mode, inputs)
    note = folder / "calls"
    assert attempt(counting(work, call, note), folder / "untouched") == 0
    truth, calls = held(folder / "untouched"), int(note.read_text())
    for at in range(1, calls + 1, every):
        root = folder / f"run-{at}"
        code = attempt(failing(work, call, at), root)
        told.tried += 1
        if code not in (REFUSED, 0):
            told.wrong = f"call {at} of {calls} ended with {code}"
        elif attempt(work, root) != 0:
            told.wrong = f"not gone on with after call {at} of {calls}"
        elif held(root) != truth:
            told.wrong = f"another result after call {at} of {calls}"
        if told.wrong:
            break
        shutil.rmtree(root)
    return told


def fill_disks(mode: str, folder: Path, inputs: Path, step: int) -> Failed:
    """Run on disks from 64 KiB on, each `step` KiB larger, until one holds the run."""
    told, work = Failed(f"{mode} full disk"), work_of(mode, inputs)
    place = folder / "disk"
    place.mkdir()
    assert attempt(work, folder / "untouched") == 0
    truth = held(folder / "untouched")

    def full(root: Path) -> None:
        _exit_by_error(lambda: work(root))

    code, size = None, 64
    while code != 0 and not told.wrong:
        _mount(place, f"size={size}k")
        try:
            code = attempt(full, place / "run")
            told.tried += code != 0
            if code not in (REFUSED, 0):
                told.wrong = f"a disk of {size} KiB: ended with {code}"
            _mount(place, "remount,size=1g")
            if not told.wrong and attempt(work, place / "run") != 0:
                told.wrong = f"a disk of {size} KiB: not gone on with"
            elif not told.wrong and held(place / "run") != truth:
                told.wrong = f"a disk of {size} KiB: another result"
        finally:
            subprocess.run(["umount", place], check=True)
        size += step
    return told


def _mount(place: Path, options: str) -> None:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
    subprocess.run(command, check=True, capture_output=True)


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mode", default="cream")
    parser.add_argument("--every", type=int, default=1, help="which calls fail")
    parser.add_argument("--step", type=int, default=16, help="KiB between disks")
    given = parser.parse_args()
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None))
    wrong = False
    try:
        inputs = write_inputs(folder / "inputs")
        for kind in (*CALLS, "disk"):
            here, begun = folder / kind, time.monotonic()
            here.mkdir()
            if kind == "disk":
                told = fill_disks(given.mode, here, inputs, given.step)
            else:
                told = fail_calls(given.mode, kind, here, inputs, given.every)
            seconds = time.monotonic() - begun
            right = told.wrong or "equal"
            print(f"{told.kind:24} {told.tried:>5} failures {seconds:6.0f} s  {right}", flush=True)
            wrong = wrong or bool(told.wrong)
            shutil.rmtree(here)
    finally:
        shutil.rmtree(folder)
    raise SystemExit(wrong)


if __name__ == "__main__":
    main()
