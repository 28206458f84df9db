"""``cream data prepare``: the public datasets of the CREAM paper as files of a recipe."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from cream.cli.console import output
from cream.cli.shared import Json

data = typer.Typer(help="Prepare public data for a recipe.", no_args_is_help=True)


@data.callback()
def group() -> None:
    """Prepare public data for a recipe."""


@data.command("prepare")
def prepare(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="oasst1, arc, openbookqa, siqa or gsm8k.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write to.")],
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="PATH",
            help="Local folder laid out as on the hub (JSONL or Parquet), instead of the hub.",
        ),
    ] = None,
    revision: Annotated[
        str | None, typer.Option("--revision", help="Branch, tag or commit on the hub.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing files.")] = False,
    as_json: Json = False,
) -> None:
    """Write the seed, prompt and test files that the paper recipes read, and what was dropped."""
    from cream.data.public import prepare_dataset

    manifest = prepare_dataset(name, out, source=source, revision=revision, replace=force)
    if as_json:
        typer.echo(json.dumps(manifest, indent=2))
        return
    for file_name, entry in manifest["files"].items():
        line = f"{out / file_name}: {entry['rows']} rows ({_dropped(entry['tally'])})"
        output().print(line, markup=False, soft_wrap=True)


def _dropped(tally: dict[str, Any]) -> str:
    parts = ", ".join(f"{name} {count}" for name, count in tally["parts"].items())
    return f"of {tally['total']} read: {parts}" if parts else "nothing read"
