"""What a person at the terminal sees and may do: output, progress, Ctrl-C.

Results go to standard output, everything else to standard error. Progress is a live bar on a
terminal and plain lines in a log. The first Ctrl-C (or SIGTERM, which a cluster sends before it
kills) in a stage that is kept part by part, or step by step, lets the part under way end, if that
takes no longer than `PATIENCE_SECONDS`; a second one, or one anywhere else, stops at once. A
training that is stopped keeps its state in either case (`cream.training.loop`).
"""

from __future__ import annotations

import codecs
import io
import json
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, final

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.text import Text

from cream.errors import Interrupted
from cream.report.terminal import duration, readable

if TYPE_CHECKING:
    from cream.records import Record

FILE_WIDTH = 200
"""Columns for tables in a file or pipe, which has no width of its own; they are as narrow as
their content allows."""


class SafeConsole(Console):
    """A console on which no text can act: whatever is printed as a string is made `readable`."""

    def render_str(self, text: str, **options: Any) -> Text:
        """As rich does, but without markup: square brackets are brackets."""
        return super().render_str(readable(text), **{**options, "markup": False})


def output() -> Console:
    """For results."""
    return SafeConsole(width=None if sys.stdout.isatty() else FILE_WIDTH, highlight=False)


def print_json(record: Record | Sequence[Record]) -> None:
    """A command's ``--json``: ASCII, so that texts of models cannot steer a terminal."""
    value = [one.as_json() for one in record] if isinstance(record, Sequence) else record.as_json()
    print(json.dumps(value, indent=2))


def messages(*, quiet: bool = False) -> Console:
    """For progress, notes and errors; lines are left whole, so that a log can be searched."""
    return SafeConsole(stderr=True, quiet=quiet, soft_wrap=True, highlight=False)


def say(text: str) -> None:
    """A line of a result, whole however long it is."""
    output().print(text, soft_wrap=True)


_SPELLED = {
    **{"→": "->", "←": "<-", "✓": "ok", "✗": "x", "×": "x", "÷": "/", "−": "-", "–": "-", "—": "-"},
    **{"…": "...", "≥": ">=", "≤": "<=", "≈": "~", "±": "+-", "½": "1/2", "·": "*", "•": "*"},
    **{"τ": "tau", "π": "pi", "β": "beta", "₀": "0", "₁": "1", "²": "2", "“": '"', "”": '"'},
    **{"‘": "'", "’": "'", "\u00a0": " ", "\u202f": " ", "\u2009": " "},
}
_UNSHOWN = "cream_unshown"


def spell_what_cannot_be_shown() -> None:
    """Have a terminal or log that is no UTF-8 show signs in its own letters, or as ``?``.

    Output never fails for a character: least of all after a run of days.
    """
    codecs.register_error(_UNSHOWN, _spell)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_UNSHOWN)


def _spell(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end]
    plain = "".join(_SPELLED.get(sign, "?") for sign in text)
    return plain.encode(error.encoding, "replace").decode(error.encoding), error.end


PATIENCE_SECONDS = 10.0
"""How long the part under way may take after Ctrl-C."""


@contextmanager
def stopping_gently(stop_when_kept: Callable[[float], bool]) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM as described above inside the block.

    Args:
        stop_when_kept: Told how many seconds there are; will raise `Interrupted` when the part
            under way is kept, or says False if there is nothing to wait for.

    Raises:
        Interrupted: With a message that says how to go on.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGALRM or not stop_when_kept(PATIENCE_SECONDS):
            raise Interrupted
        signal.setitimer(signal.ITIMER_REAL, PATIENCE_SECONDS)

    def forget_dropped(dropped: sys.UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, Interrupted):  # the next stage leaves
            told(dropped)

    told, sys.unraisablehook = sys.unraisablehook, forget_dropped
    before = {number: signal.signal(number, handle) for number in (*STOPS, signal.SIGALRM)}
    try:
        yield
    except Interrupted as stop:
        command = shlex.join(["cream", *sys.argv[1:]])
        raise Interrupted(f"give the same command again to go on from here: {command}") from stop
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = told
        for number, handler in before.items():
            signal.signal(number, handler)


STOPS = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask to stop."""
LINE_EVERY_SECONDS = 10.0
"""How often a log that is no terminal gets a line."""
SHOWN = (
    "accuracy",
    "consistency/rate",
    "loss",
    "rewards/margins",
    "rewards/accuracies",
    "logps/chosen",
)
"""Live figures worth a place on the line, by metric key; the first ones stay if space is short."""
BAR_WIDTH = 12
ELAPSED_WIDTH = 7
SPINNER = "dots"


@final
class ConsoleProgress:
    """Implements `cream.protocols.Progress` on a rich console. Texts are printed as they are."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        """Take a console and a clock that gives seconds."""
        self._console, self._clock = console, clock
        self._live: Progress | None = None
        self._task = TaskID(0)
        self._places: dict[str, str] = {}
        self._stage, self._unit, self._total, self._done, self._already = "", "", 0, 0, 0
        self._kept, self._in_parts, self._stopping = 0, False, False
        self._by_step = False
        self._begun = self._paced_from = self._spoken = 0.0

    def number(self, stages: Sequence[str]) -> None:
        """Give each of a run's stages its place: they are shown as ``[3/14] ...`` from now on."""
        count = len(stages)
        self._places = {stage: f"[{k}/{count}] " for k, stage in enumerate(stages, start=1)}

    def start(self, stage: str, total: int, unit: str, done: int = 0) -> None:
        """Show a stage that begins."""
        self.close()
        self._leave_if_asked()
        self._stage = readable(self._places.get(stage, "") + stage)
        self._unit, self._total = unit, total
        self._done = self._already = self._kept = done
        self._in_parts = total > 0
        self._by_step = not total  # each report is of something kept, and tells the total
        self._begun = self._paced_from = self._spoken = self._clock()
        if self._console.is_terminal and not self._console.quiet:
            self._live = _bar(self._console)
            self._live.start()
            self._task = self._live.add_task(
                self._stage, total=total or None, completed=done, figures=""
            )

    def advance(self, count: int, live: Mapping[str, float] | None = None) -> None:
        """Show that `count` more units are done and kept.

        Raises:
            Interrupted: `stop_when_kept` asked for it.
        """
        self._kept += count
        self.advance_to(self._kept, self._total, live)
        self._leave_if_asked()

    def advance_to(self, done: int, total: int, live: Mapping[str, float] | None = None) -> None:
        """Show that `done` of `total` units are done.

        Raises:
            Interrupted: `stop_when_kept` asked for it, in a stage that is kept step by step.
        """
        now = self._clock()
        if self._total == 0:  # the first report of a stage whose total was unknown
            # What came before (loading a model, steps restored from disk) says nothing of pace.
            self._already, self._paced_from = done, now
        self._done, self._total = done, total
        shown = [f"{key} {live[key]:.3g}" for key in SHOWN if live and key in live]
        if self._live is not None:
            figures = self._fitting(self._figures(now), shown)
            self._live.update(self._task, completed=done, total=total, figures=figures)
        elif now - self._spoken >= LINE_EVERY_SECONDS:
            self._spoken = now
            line = f"{self._stage}: {self._figures(now)} {' '.join(shown)}"
            self._console.print(line.rstrip(), markup=False)
        if self._by_step:
            self._in_parts = True
            self._leave_if_asked()

    def finish(self, result: str = "") -> None:
        """Show that the stage is done, and how long it took."""
        self.close()
        seconds = self._clock() - self._begun
        self._console.print(
            Text.assemble(("✓", "green"), f" {self._stage} ", (f"{seconds:.1f} s", "dim"))
            + Text(f"  {readable(result)}" if result else "")
        )

    def note(self, text: str) -> None:
        """Say something the user should know."""
        self._console.print(Text.assemble(("note:", "yellow"), f" {readable(text)}"))

    @contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """Show on a terminal that something goes on whose length is unknown."""
        quiet = self._console.quiet or not self._console.is_terminal
        with nullcontext() if quiet else self._console.status(Text(what), spinner=SPINNER):
            yield

    def stop_when_kept(self, patience_seconds: float) -> bool:
        """Leave when the part under way is kept; False if there is nothing to wait for."""
        wait = self._in_parts and not self._stopping
        # Also where the caller raises at once: a callback of a library written in C may drop what
        # is raised in it, and then the next stage leaves.
        self._stopping = True
        if not wait:
            return False
        self.note(
            f"stopping once the {'step' if self._by_step else 'part'} under way is kept, in "
            f"{patience_seconds:.0f} s at the latest; "
            "Ctrl-C again stops at once"
        )
        return True

    def close(self) -> None:
        """Take a live bar off the terminal (at the end of a stage, or after an error)."""
        self._in_parts = False
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _leave_if_asked(self) -> None:
        if self._stopping:
            raise Interrupted

    def _figures(self, now: float) -> str:
        return f"{self._done}/{self._total} {self._unit}{self._pace(now)}"

    def _fitting(self, figures: str, live: list[str]) -> str:
        """As many live figures as have a place on the bar's line."""
        room = self._console.width - len(self._stage) - BAR_WIDTH - ELAPSED_WIDTH - 4
        for entry in live:
            if len(figures) + 1 + len(entry) > room:
                break
            figures = f"{figures} {entry}"
        return figures

    def _pace(self, now: float) -> str:
        """Units per second of this attempt and time left, or nothing while there is no pace."""
        made, seconds = self._done - self._already, now - self._paced_from
        if made <= 0 or seconds <= 0:
            return ""
        rate = made / seconds
        return f", {rate:.2g}/s, {duration(max(self._total - self._done, 0) / rate)} left"


def _bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}", style="bold", markup=False),
        BarColumn(bar_width=BAR_WIDTH),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}", markup=False),
        console=console,
        transient=True,
    )


RecipePath = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="Recipe file (`cream init` writes one).")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override one setting; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]
AcceptChanges = Annotated[
    bool,
    typer.Option(
        "--accept-changes",
        help="Go on though another engine, dtype or version computes, which changes results.",
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]


@contextmanager
def held_folder(out: Path, *, quiet: bool) -> Iterator[ConsoleProgress]:
    """A folder held against other processes, and progress; Ctrl-C keeps what is whole."""
    from cream.runs.store import Run

    progress = ConsoleProgress(messages(quiet=quiet))
    try:
        with Run(out).locked(), stopping_gently(progress.stop_when_kept):
            yield progress
    finally:
        progress.close()
