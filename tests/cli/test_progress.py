from __future__ import annotations

import io

import pytest
from rich.console import Console

from cream.cli.progress import ConsoleProgress


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def progress_into(
    *, terminal: bool = False, quiet: bool = False
) -> tuple[io.StringIO, Clock, ConsoleProgress]:
    stream, clock = io.StringIO(), Clock()
    console = Console(
        file=stream, force_terminal=terminal, quiet=quiet, width=200, color_system=None
    )
    return stream, clock, ConsoleProgress(console, clock)


def test_a_log_gets_one_line_every_fifteen_seconds_at_most():
    stream, clock, progress = progress_into()
    progress.start("sample", 100, "prompts")
    for _ in range(40):
        clock.now += 1.0
        progress.advance(1)

    lines = stream.getvalue().splitlines()

    assert lines == [
        "sample: 15/100 prompts, 1/s, 85 s left",
        "sample: 30/100 prompts, 1/s, 70 s left",
    ]


def test_units_of_an_earlier_attempt_do_not_count_towards_the_rate():
    """60 of 100 were done; 10 more took 20 s, so 0.5 a second and 30 left take 60 s."""
    stream, clock, progress = progress_into()
    progress.start("sample", 100, "prompts", done=60)
    clock.now += 20.0
    progress.advance(10)

    assert stream.getvalue() == "sample: 70/100 prompts, 0.5/s, 60 s left\n"


def test_restored_steps_and_loading_do_not_count_towards_the_rate_of_a_training():
    """Step 51 comes after a minute of loading; steps 52 to 61 take 20 s, so 39 left take 78 s."""
    stream, clock, progress = progress_into()
    progress.start("train", 0, "steps")
    clock.now += 60.0
    progress.advance_to(51, 100, {"loss": 0.5})
    clock.now += 20.0
    progress.advance_to(61, 100, {"loss": 0.25, "grad_norm": 3.0})

    assert stream.getvalue().splitlines() == [
        "train: 51/100 steps loss 0.5",
        "train: 61/100 steps, 0.5/s, 78 s left loss 0.25",
    ]


def test_no_time_passed_and_nothing_to_do_divide_by_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cream.cli.progress.LINE_EVERY_SECONDS", 0.0)
    stream, _, progress = progress_into()
    progress.start("sample", 4, "prompts")
    progress.advance(2)
    progress.start("train", 0, "steps")
    progress.advance_to(0, 0)

    assert stream.getvalue() == "sample: 2/4 prompts\ntrain: 0/0 steps\n"


@pytest.mark.parametrize("terminal", [False, True])
def test_texts_with_brackets_are_printed_literally(terminal: bool):
    stream, clock, progress = progress_into(terminal=terminal)
    progress.start("score [bold]M1[/bold]", 2, "[red]shards")
    clock.now += 20.0
    progress.advance(1)
    progress.finish("C [0.4, 0.6] of [/nothing]")
    progress.note("template [/x] writes [dim]dates")

    shown = stream.getvalue()
    assert "score [bold]M1[/bold]" in shown
    assert "[red]shards" in shown
    assert "C [0.4, 0.6] of [/nothing]" in shown
    assert "note: template [/x] writes [dim]dates" in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_quiet_prints_nothing(terminal: bool):
    stream, clock, progress = progress_into(terminal=terminal, quiet=True)
    progress.start("sample", 4, "prompts")
    clock.now += 60.0
    progress.advance(2)
    progress.finish("done")
    progress.note("something")

    assert stream.getvalue() == ""


def test_a_log_has_no_control_codes():
    stream, clock, progress = progress_into()
    progress.start("sample", 4, "prompts")
    clock.now += 60.0
    progress.advance(2, {"loss": 1.0})
    progress.finish("4 completions")

    assert "\x1b" not in stream.getvalue()
    assert stream.getvalue().splitlines()[-1] == "✓ sample 60.0 s  4 completions"
