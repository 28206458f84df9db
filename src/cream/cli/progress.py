"""Progress for people: a live bar on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
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

LINE_EVERY_SECONDS = 15.0
"""How often a log that is no terminal gets a line."""
SHOWN = ("loss", "rewards/margins", "rewards/accuracies", "logps/chosen")
"""Live figures worth a place on the line, by metric key."""


@final
class ConsoleProgress:
    """Implements `cream.protocols.Progress` on a rich console."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Progress | None = None
        self._task = TaskID(0)
        self._stage, self._unit, self._total, self._done, self._already = "", "", 0, 0, 0
        self._begun = self._spoken = 0.0

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Show a stage that begins."""
        self._stage, self._unit, self._total = stage, unit, total
        self._done = self._already = done
        self._begun = self._spoken = time.monotonic()
        if self._console.is_terminal:
            self._live = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[unit]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[live]}"),
                console=self._console,
                transient=True,
            )
            self._live.start()
            self._task = self._live.add_task(
                stage, total=total or None, completed=done, unit=unit, live=""
            )

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        """Show that `count` more units are done."""
        self.advance_to(self._done + count, self._total, live)

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        """Show that `done` of `total` units are done."""
        if self._total == 0:  # the first report of a stage whose total was unknown
            self._already = done - 1
        self._done, self._total = done, total
        shown = " ".join(f"{key} {live[key]:.3g}" for key in SHOWN if live and key in live)
        if self._live is not None:
            self._live.update(self._task, completed=done, total=total, live=shown)
            return
        now = time.monotonic()
        if now - self._spoken >= LINE_EVERY_SECONDS:
            self._spoken = now
            rate = (self._done - self._already) / (now - self._begun)
            left = (self._total - self._done) / rate if rate else float("nan")
            self._console.print(
                f"{self._stage}: {self._done}/{self._total} {self._unit}, {rate:.2g}/s, "
                f"{left:.0f} s left {shown}".rstrip(),
                highlight=False,
            )

    def finish(self, result: str = "") -> None:
        """Show that the stage is done, and how long it took."""
        self.close()
        seconds = time.monotonic() - self._begun
        self._console.print(
            f"[green]✓[/green] {self._stage} [dim]{seconds:.1f} s[/dim]  {result}", highlight=False
        )

    def note(self, text: str) -> None:
        """Say something the user should know."""
        self._console.print(f"[yellow]note:[/yellow] {text}", highlight=False)

    def close(self) -> None:
        """Take a live bar off the terminal (at the end of a stage, or after an error)."""
        if self._live is not None:
            self._live.stop()
            self._live = None
