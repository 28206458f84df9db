"""``cream status``: what a run directory holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cream.cli.console import output
from cream.cli.shared import Json


def status(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    as_json: Json = False,
) -> None:
    """Show which stages of a run are finished, and the results so far."""
    from cream.report.status import run_status
    from cream.report.summary import summarise_run
    from cream.report.tables import print_status, print_summary

    stages = run_status(run)
    summary = summarise_run(run)
    if as_json:
        typer.echo(json.dumps({"stages": stages, "summary": summary}, indent=2))
        return
    console = output()
    print_status(console, stages)
    print_summary(console, summary)
