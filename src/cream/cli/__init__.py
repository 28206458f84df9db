"""The command line: its commands by what they are for. Logic lives elsewhere.

Heavy libraries are imported inside the commands, so that ``--help`` comes at once.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from typing import Any, Never

import typer

from cream import __version__
from cream.cli import evaluation, inspection, preparing, running, sharing
from cream.cli.bench import bench
from cream.cli.compare import compare
from cream.cli.console import STOPS, messages, spell_what_cannot_be_shown
from cream.cli.rerank import rerank
from cream.cli.steer import steer
from cream.errors import CreamError, Interrupted
from cream.kernels.memory import keep_freed_memory

app = typer.Typer(
    name="cream",
    help="Align language models without preference labels: sample, score, rank, check the ranking, "
    "train, repeat.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run")(running.run)
app.command("plan")(inspection.plan)
app.command("init")(preparing.init)
app.command("models")(preparing.models)
app.command("eval")(evaluation.evaluate)
app.command("status")(inspection.status)
app.command("verify")(inspection.verify)
app.command("explain")(inspection.explain)
app.command("doctor")(inspection.doctor)
app.command("trust")(running.trust)
app.command("compare")(compare)
app.command("report")(sharing.report)
app.command("sample")(running.sample)
app.command("score")(running.score)
app.command("pair")(running.pair)
app.command("train")(running.train)
app.command("bench")(bench)
app.add_typer(preparing.data, name="data")
app.add_typer(rerank, name="rerank")
app.add_typer(steer, name="steer")
app.add_typer(sharing.export, name="export")
app.command("push")(sharing.push)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Align language models without preference labels."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it, and after SIGTERM."""
MACHINE_TROUBLE = (
    *(errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.EACCES, errno.EPERM, errno.EROFS),
)
"""Errors of the file system that are no fault of the program and need no traceback."""


def main() -> None:
    """Entry point: one clear line per error, no traceback for what the user can mend."""
    spell_what_cannot_be_shown()
    quiet_libraries()
    keep_freed_memory()
    before = {number: signal.signal(number, _interrupt) for number in STOPS}
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
        for number, handler in before.items():
            signal.signal(number, handler)


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
