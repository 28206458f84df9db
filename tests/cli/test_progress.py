from __future__ import annotations

import io

import pytest
from rich.console import Console

from cream.cli.console import ConsoleProgress, Interrupted


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


def test_a_log_gets_one_line_every_ten_seconds_at_most():
    stream, clock, progress = progress_into()
    progress.start("sample", 100, "prompts")
    for _ in range(40):
        clock.now += 1.0
        progress.advance(1)

    lines = stream.getvalue().splitlines()

    assert lines == [
        "sample: 10/100 prompts, 1/s, 90 s left",
        "sample: 20/100 prompts, 1/s, 80 s left",
        "sample: 30/100 prompts, 1/s, 70 s left",
        "sample: 40/100 prompts, 1/s, 60 s left",
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
    monkeypatch.setattr("cream.cli.console.LINE_EVERY_SECONDS", 0.0)
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


def test_stages_of_a_run_have_a_place_and_others_have_none():
    stream, clock, progress = progress_into()
    progress.number(["sample", "score"])
    for stage in ("score", "judge"):
        progress.start(stage, 2, "prompts")
        clock.now += 20.0
        progress.advance(1)
        progress.finish()

    assert stream.getvalue().splitlines() == [
        "[2/2] score: 1/2 prompts, 0.05/s, 20 s left",
        "✓ [2/2] score 20.0 s",
        "judge: 1/2 prompts, 0.05/s, 20 s left",
        "✓ judge 20.0 s",
    ]


def test_units_seen_within_a_part_are_not_counted_again_when_it_is_kept():
    """Three of a part of four are seen, then the part is kept: four are done, not seven."""
    stream, clock, progress = progress_into()
    progress.start("sample", 8, "prompts")
    for done in (1, 2, 3):
        clock.now += 10.0
        progress.advance_to(done, 8)
    clock.now += 10.0
    progress.advance(4, {"accuracy": 0.5, "unknown": 1.0})

    assert (
        stream.getvalue().splitlines()[-1] == "sample: 4/8 prompts, 0.1/s, 40 s left accuracy 0.5"
    )


def test_a_request_to_stop_waits_for_the_part_and_no_longer():
    stream, _, progress = progress_into()
    progress.start("sample", 8, "prompts")
    assert progress.stop_when_kept(10.0)
    assert not progress.stop_when_kept(10.0)  # asked twice
    progress.advance_to(3, 8)
    with pytest.raises(Interrupted):
        progress.advance(4)

    assert "once the part under way is kept, in 10 s at the latest" in stream.getvalue()


def test_a_request_to_stop_that_was_dropped_is_met_by_the_next_stage():
    """What a signal handler raises within a callback of C code is lost."""
    _, _, progress = progress_into()
    assert not progress.stop_when_kept(10.0)  # no stage: nothing to wait for
    with pytest.raises(Interrupted):
        progress.start("sample", 8, "prompts")
    _, _, progress = progress_into()
    progress.start("train", 0, "steps")
    assert not progress.stop_when_kept(10.0)  # nothing is kept before the end
    with pytest.raises(Interrupted):
        progress.advance_to(1, 4)


def test_a_stage_on_a_narrow_terminal_keeps_its_line():
    """Figures that have no place are left out; the line is never broken."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=60, color_system=None)
    progress = ConsoleProgress(console, Clock())
    progress.start("iteration 1: sample", 8, "prompts")
    progress.advance_to(3, 8, {"loss": 1.0, "rewards/margins": 2.0})
    progress.close()

    assert "3/8 prompts" in stream.getvalue()
    assert "rewards/margins" not in stream.getvalue()
