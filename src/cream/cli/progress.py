"""Progress for people: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import final

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

LINE_EVERY_SECONDS = 15.0
"""How often a log that is no terminal gets a line."""
SHOWN = ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen")
"""Live figures worth a place on the line, by metric key."""


@final
class ConsoleProgress:
    """Implements `cream.protocols.Progress` on a rich console. Texts are printed as they are."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a console and a clock that gives seconds."""
        self._console, self._clock = console, clock
        self._live: Progress | None = None
        self._task = TaskID(0)
        self._stage, self._unit, self._total, self._done, self._already = "", "", 0, 0, 0
        self._begun = self._paced_from = self._spoken = 0.0

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Show a stage that begins."""
        self.close()
        self._stage, self._unit, self._total = stage, unit, total
        self._done = self._already = done
        self._begun = self._paced_from = self._spoken = self._clock()
        if self._console.is_terminal and not self._console.quiet:
            self._live = _bar(self._console)
            self._live.start()
            self._task = self._live.add_task(
                stage, total=total or None, completed=done, unit=unit, live=""
            )

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        """Show that `count` more units are done."""
        self.advance_to(self._done + count, self._total, live)

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        """Show that `done` of `total` units are done."""
        now = self._clock()
        if self._total == 0:  # the first report of a stage whose total was unknown
            # What came before (loading a model, steps restored from disk) says nothing of pace.
            self._already, self._paced_from = done, now
        self._done, self._total = done, total
        shown = " ".join(f"{key} {live[key]:.3g}" for key in SHOWN if live and key in live)
        if self._live is not None:
            self._live.update(self._task, completed=done, total=total, live=shown)
        elif now - self._spoken >= LINE_EVERY_SECONDS:
            self._spoken = now
            line = f"{self._stage}: {done}/{total} {self._unit}{self._pace(now)} {shown}"
            self._console.print(line.rstrip(), markup=False)

    def finish(self, result: str = "") -> None:
        """Show that the stage is done, and how long it took."""
        self.close()
        seconds = self._clock() - self._begun
        self._console.print(
            Text.assemble(("✓", "green"), f" {self._stage} ", (f"{seconds:.1f} s", "dim"))
            + Text(f"  {result}" if result else "")
        )

    def note(self, text: str) -> None:
        """Say something the user should know."""
        self._console.print(Text.assemble(("note:", "yellow"), f" {text}"))

    def close(self) -> None:
        """Take a live bar off the terminal (at the end of a stage, or after an error)."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _pace(self, now: float) -> str:
        """Units per second of this attempt and seconds left, or nothing while there is no pace."""
        made, seconds = self._done - self._already, now - self._paced_from
        if made <= 0 or seconds <= 0:
            return ""
        rate = made / seconds
        return f", {rate:.2g}/s, {max(self._total - self._done, 0) / rate:.0f} s left"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[live]}", markup=False),
        console=console,
        transient=True,
    )
