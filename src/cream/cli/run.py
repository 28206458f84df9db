"""``cream run``: the whole recipe, from wherever the run directory stands."""

from __future__ import annotations

import json

import typer

from cream.cli.console import output
from cream.cli.shared import Json, Overrides, Quiet, RecipePath, opened


def run(
    recipe: RecipePath, overrides: Overrides = None, as_json: Json = False, quiet: Quiet = False
) -> None:
    """Run a recipe from start to end; given again after an interruption, it goes on."""
    with opened(recipe, overrides, quiet=quiet) as context:
        from cream.loop.iterations import run_recipe
        from cream.report.summary import summarise_run
        from cream.report.tables import print_summary
        from cream.runs.files import write_json

        run_recipe(context)
        root = context.run.root
        summary = summarise_run(root)
        write_json(root / "summary.json", summary)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        console = output()
        print_summary(console, summary)
        console.print(f"run directory: {root}", markup=False, soft_wrap=True)
        console.print(f"to read it: cream report {root}", markup=False, soft_wrap=True)
