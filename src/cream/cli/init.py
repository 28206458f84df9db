"""``cream init``: a commented recipe to start from, and the schema that editors check it by."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from cream.errors import RecipeError


def init(
    path: Annotated[Path, typer.Argument(help="File to write.")] = Path("recipe.yaml"),
    schema: Annotated[
        bool,
        typer.Option("--schema", help="Also write recipe.schema.json beside it, for editors."),
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Write a commented recipe to start from."""
    if path.exists() and not force:
        raise RecipeError(f"{path} exists; choose another name or give --force")
    text = resources.files("cream.recipe").joinpath("template.yaml").read_text(encoding="utf-8")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    if schema:
        from cream.recipe.schema import recipe_schema

        beside = path.parent / "recipe.schema.json"
        beside.write_text(json.dumps(recipe_schema(), indent=2) + "\n", encoding="utf-8")
        typer.echo(f"wrote {beside}")
    typer.echo(f"wrote {path}; run it with: cream run {path}")
