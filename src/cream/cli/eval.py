"""``cream eval``: a model on tasks, without a run."""

from __future__ import annotations

from typing import Annotated

import typer

from cream.cli.shared import Json, Quiet


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Local folder (runs/x/models/M2), hub id, or embedded name.")
    ],
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model on tasks."""
    del model, as_json, quiet
