"""The command line. One file per command; logic lives elsewhere, and heavy imports come late."""

from __future__ import annotations

import os
import sys

import typer
from rich.console import Console

from cream import __version__
from cream.cli import eval as eval_command
from cream.cli import init, models, run, stages, status
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
app.command("init")(init.init)
app.command("models")(models.models)
app.command("eval")(eval_command.evaluate)
app.command("status")(status.status)
app.command("sample")(stages.sample)
app.command("score")(stages.score)
app.command("pair")(stages.pair)
app.command("train")(stages.train)


@app.callback(invoke_without_command=True)
def root(
    version: bool = typer.Option(False, "--version", help="Print the version and exit."),
) -> None:
    """Align language models without preference labels."""
    if version:
        typer.echo(__version__)
        raise typer.Exit


def main() -> None:
    """Entry point: one clear line per error, no traceback for what the user can mend."""
    quiet_libraries()
    try:
        app()
    except CreamError as error:
        Console(stderr=True).print(f"error: {error}", style="red", markup=False, highlight=False)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        Console(stderr=True).print(
            "interrupted; give the same command again to go on from here", markup=False
        )
        sys.exit(130)


def quiet_libraries() -> None:
    """Keep the model libraries' own bars and advice off the terminal, unless asked for."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
