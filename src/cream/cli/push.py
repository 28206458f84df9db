"""``cream push``: a model of a run to the Hugging Face hub, and only when asked for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cream.cli.console import output
from cream.cli.shared import Json


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
    model: Annotated[str, typer.Option("--model", help="Which model of the run: M1, M2, ...")],
    to: Annotated[str, typer.Option("--to", metavar="OWNER/NAME", help="Repository on the hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it is new.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the card; send nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a model with a card of its data, method, results, licence and recipe."""
    from cream.loop.publishing import model_upload
    from cream.models.publishing import push as send
    from cream.report.summary import summarise_run

    upload = model_upload(run, model, to, summarise_run(run))
    url = None if dry_run else send(upload, private=private)
    sizes = upload.sizes()
    if as_json:
        value = {
            "run": str(run),
            "model": model,
            "to": to,
            "private": private,
            "files": [{"name": name, "bytes": size} for name, size in sizes.items()],
            "bytes": sum(sizes.values()),
            "card": upload.card,
            "url": url,
        }
        typer.echo(json.dumps(value, indent=2))
        return
    console = output()
    for name, size in sizes.items():
        console.print(f"{size:>13,d} bytes  {name}", markup=False, soft_wrap=True)
    if url is None:
        console.print(f"\nREADME.md as it would stand at {to}:\n", markup=False, soft_wrap=True)
        console.print(upload.card, markup=False, soft_wrap=True)
    else:
        console.print(f"pushed {sum(sizes.values()):,d} bytes: {url}", markup=False, soft_wrap=True)
