"""Progress that kills a run: how tests interrupt one at a chosen report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cream.runs.reader import RunReader
from run_contents import contents, same_weights, weights


class Killed(BaseException):
    """Stands for a kill: no handler of ours may catch it."""


class KillAt:
    """A `Progress` that kills the run at its n-th report of one kind.

    The kinds are ``start`` and ``finish`` of a stage, and ``kept``: a part, or a training step.
    What is done within a part is reported too (`advance_to`) and is none of them.
    """

    def __init__(self, kind: str, after: int) -> None:
        self.kind, self.left = kind, after
        self.training = False

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.training = unit == "steps"
        self._report("start")

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        self._report("kept")

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        if self.training:
            self._report("kept")

    def finish(self, result: str = "") -> None:
        self._report("finish")

    def note(self, text: str) -> None:
        pass

    def _report(self, kind: str) -> None:
        if kind == self.kind:
            self.left -= 1
            if self.left == 0:
                raise Killed


class KillOncePerStage:
    """A `Progress` that kills the run once in every stage, at the n-th report within it.

    It is shared by the attempts: a stage that was killed once is left alone from then on.
    """

    def __init__(self, after: int) -> None:
        self.after = after
        self.stage, self.reports = "", 0
        self.killed: list[str] = []

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage, self.reports = stage, 0

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        pass

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        self.reports += 1
        if self.reports == self.after and self.stage not in self.killed:
            self.killed.append(self.stage)
            raise Killed

    def finish(self, result: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass


class KillInside:
    """A `Progress` that kills the run after the first part of one stage, named by its label."""

    def __init__(self, label: str) -> None:
        self.label, self.stage = label, ""

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        self.stage = stage

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        if self.label in self.stage:
            raise Killed

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        pass

    def finish(self, result: str = "") -> None:
        pass

    def note(self, text: str) -> None:
        pass


def require_equal_after_kills(run: Callable[[Any], Any], root: Path, whole: Path) -> None:
    """Kill a run of two iterations wherever a stage begins or is under way; compare its end.

    It is killed whenever a second stage begins, and, while stages last, once within every part or
    training.

    Args:
        run: Runs, or goes on with, the run in `root`, reporting to the `Progress` given.
        root: Its folder.
        whole: That of the same run, not interrupted.
    """
    within, kills = KillOncePerStage(1), 0
    for progress in (lambda: KillAt("start", 2), lambda: within):
        while True:
            try:
                run(progress())
                break
            except Killed:
                kills += 1
    assert kills >= len(RunReader(whole).plan.stages) - 6, "every stage but the frozen data"
    assert contents(root) == contents(whole)
    assert same_weights(weights(root, "M3"), weights(whole, "M3"))
