"""Taking a finished stage over from another run: the same fingerprint, hence the same result.

Files are hard links, so a shared stage takes its space once and stays whole when the other run, or
its copy of a model, is deleted. That is safe because nothing here is written in place: every file
is replaced by a rename, which leaves the other name alone. Where the file system has no hard links
they are copied. A taken stage is like one made here, but for `POINTER`, which says whose it was.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from cream.records import Count, Record
from cream.runs.files import (
    make_folder,
    remove_folder,
    remove_leftovers,
    replacing_folder,
    write_json,
)
from cream.runs.store import DONE, Run, Stage

POINTER = "shared.json"
"""Beside ``stage.json`` of a stage that was taken over: the ``run`` that it was taken from."""
COMPARISON = "comparison.yaml"
"""Who takes part in a comparison, in its folder: a `Comparers`."""
NO_HARD_LINKS = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS)
"""What a file system answers that cannot link two places."""


class MethodFolder(Record):
    """Where the runs of a method are."""

    name: str
    folder: str
    """In that of the comparison; a run per seed is in it."""


class Comparers(Record):
    """Who takes part in a comparison."""

    name: str
    baseline: str
    """Method that the others are compared with."""
    seeds: list[Count]
    methods: list[MethodFolder]

    def places(self, root: Path) -> dict[str, dict[int, Path]]:
        """Method -> seed -> run directory, begun or not."""
        return {
            method.name: {seed: root / method.folder / f"seed-{seed}" for seed in self.seeds}
            for method in self.methods
        }


def lendable(stage: Stage, lender: Run) -> Stage | None:
    """This very stage as finished by another run, or None.

    Raises:
        RunError: A file of the other run's stage is not what was written.
    """
    name = stage.spec.name
    if not (lender.root / name / DONE).exists():
        return None
    found = lender.finished(name)
    return found if found.fingerprint == stage.fingerprint else None


def is_untouched(stage: Stage) -> bool:
    """Whether a stage has not been begun, so that it may be taken over."""
    if not stage.folder.exists():
        return True
    remove_leftovers(stage.folder)
    return not any(stage.folder.iterdir())


def take_stage(stage: Stage, found: Stage, lender: Run) -> None:
    """Put a finished stage of another run in the place of one that `is_untouched`."""
    whose = Path(os.path.relpath(lender.root, stage.folder)).as_posix()
    if stage.folder.exists():
        stage.folder.rmdir()
    remove_leftovers(stage.folder.parent)
    with replacing_folder(stage.folder) as temporary:
        _link_files(found.folder, temporary, without={POINTER})
        write_json(temporary / POINTER, {"run": whose})


def take_folder(source: Path, target: Path, texts: Mapping[str, str]) -> None:
    """Take a whole folder over, such as a model's.

    Args:
        source: What to take.
        target: Where to; a folder there is left by an interrupted attempt and is replaced.
        texts: Files that are written anew instead of taken, by name.
    """
    remove_folder(target)
    make_folder(target.parent)
    remove_leftovers(target.parent)
    with replacing_folder(target) as temporary:
        _link_files(source, temporary, without=texts)
        for name, text in texts.items():
            (temporary / name).write_text(text, encoding="utf-8")


def _link_files(source: Path, target: Path, *, without: Iterable[str]) -> None:
    left_out = set(without)
    for path in sorted(p for p in source.rglob("*") if p.is_file() and p.name not in left_out):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        _link(path, place)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in NO_HARD_LINKS:
            raise
        shutil.copy2(source, target)
