"""``cream doctor``: what this machine has of what a run needs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cream.cli.console import messages, output
from cream.cli.progress import ConsoleProgress
from cream.cli.shared import Json
from cream.runs.cache import cache_dir


def doctor(
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Time a matrix product and a copy (1 s)."),
    ] = True,
    as_json: Json = False,
) -> None:
    """Examine this machine; exit code 1 if something that a run needs is missing."""
    with ConsoleProgress(messages()).busy("examining the machine"):
        from cream.inspect.doctor import examine_machine, healthy
        from cream.inspect.tables import print_machine

        machine = examine_machine(cache_dir(), measure=measure)
    if as_json:
        typer.echo(json.dumps(machine, indent=2))
    else:
        print_machine(output(), machine)
    if not healthy(machine):
        raise typer.Exit(1)
