"""The command line. One file per command; logic lives elsewhere, and heavy imports come late."""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any, Never

import typer

from cream import __version__
from cream.cli import bench as bench_command
from cream.cli import (
    compare,
    doctor,
    explain,
    init,
    models,
    plan,
    push,
    report,
    run,
    stages,
    status,
)
from cream.cli import data as data_command
from cream.cli import eval as eval_command
from cream.cli import export as export_command
from cream.cli.console import messages
from cream.cli.interruption import Interrupted
from cream.cli.memory import keep_freed_memory
from cream.errors import CreamError

app = typer.Typer(
    name="cream",
    help="Align language models without preference labels: sample, score, rank, check the ranking, "
    "train, repeat.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(run.run)
app.command("plan")(plan.plan)
app.command("init")(init.init)
app.command("models")(models.models)
app.command("eval")(eval_command.evaluate)
app.command("status")(status.status)
app.command("explain")(explain.explain)
app.command("doctor")(doctor.doctor)
app.command("compare")(compare.compare)
app.command("report")(report.report)
app.command("sample")(stages.sample)
app.command("score")(stages.score)
app.command("pair")(stages.pair)
app.command("train")(stages.train)
app.command("bench")(bench_command.bench)
app.add_typer(data_command.data, name="data")
app.add_typer(export_command.export, name="export")
app.command("push")(push.push)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Align language models without preference labels."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
MACHINE_TROUBLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)
"""Errors of the file system that are no fault of the program and need no traceback."""


def main() -> None:
    """Entry point: one clear line per error, no traceback for what the user can mend."""
    quiet_libraries()
    keep_freed_memory()
    before = signal.signal(signal.SIGINT, _interrupt)
    try:
        app()
    except CreamError as error:
        _fail(f"error: {error}", error.exit_code)
    except OSError as error:
        if error.errno not in MACHINE_TROUBLE:
            raise
        _fail(f"error: {error.strerror}: {error.filename}", 1)
    except Interrupted as stop:
        _fail(f"interrupted; {stop}" if stop.args else "interrupted", INTERRUPTED)
    finally:
        signal.signal(signal.SIGINT, before)


def _interrupt(number: int, frame: Any) -> Never:
    raise Interrupted


def _fail(text: str, code: int) -> Never:
    messages().print(text, style="red", markup=False)
    sys.exit(code)


def quiet_libraries() -> None:
    """Keep the model libraries' own bars and advice off the terminal, unless asked for."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
