"""``cream report``: a run, or several side by side, as a page to read and to pass on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cream.cli.shared import Json

PAGE = "report.html"


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run directories.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", help=f"The file to write; by default {PAGE} in the first run."),
    ] = None,
    full: Annotated[
        Path | None,
        typer.Option(
            "--full", help="A folder to write instead, with every record beside the page."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML page about a run: results, figures, and every prompt to read."""
    from cream.report.page import write_full_page, write_page

    if out is not None and full is not None:
        raise typer.BadParameter("--out names a file and --full a folder; give one of them")
    if full is not None:
        result = write_full_page(runs, full)
    else:
        result = write_page(runs, out or runs[0] / PAGE)
    if as_json:
        typer.echo(
            json.dumps(
                {
                    "path": str(result.path),
                    "bytes": result.bytes,
                    "prompts": result.prompts,
                    "shown": result.shown,
                    "records": "whole" if result.shown == result.prompts else "sampled",
                },
                indent=2,
            )
        )
        return
    shown = "all" if result.shown == result.prompts else f"a sample of {result.shown:,}"
    typer.echo(
        f"{result.path}: {result.bytes / 1e6:.1f} MB, {result.prompts:,} prompts, {shown} to read"
    )
