"""What several commands need: where things are on this machine, opening a run, options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cream.cli.console import messages
from cream.cli.interruption import stopping_gently
from cream.cli.progress import ConsoleProgress
from cream.runs.cache import cache_dir

if TYPE_CHECKING:
    from cream.loop.context import Context
    from cream.recipe import Recipe

RecipePath = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="Recipe file (`cream init` writes one).")
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="A.B=C", help="Override one setting; may be repeated."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only the result.")]


@contextmanager
def opened(recipe_path: Path, overrides: Sequence[str] | None, *, quiet: bool) -> Iterator[Context]:
    """Open the run of a recipe: everything checked, nothing loaded, the directory held."""
    from cream.recipe import load_recipe

    recipe = load_recipe(recipe_path, overrides or ())
    with opened_recipe(recipe, base_dir=recipe_path.parent, quiet=quiet) as context:
        yield context


@contextmanager
def opened_recipe(recipe: Recipe, *, base_dir: Path, quiet: bool) -> Iterator[Context]:
    """See `opened`; for a recipe already loaded."""
    progress = ConsoleProgress(messages(quiet=quiet))
    try:
        with progress.busy("checking recipe, data and model"):
            from cream.loop.opening import open_context
            from cream.loop.outline import outline
            from cream.runs.store import Run

        run = Run(Path(recipe.folder))
        with run.locked(), stopping_gently(progress.stop_when_kept):
            with progress.busy("checking recipe, data and model"):
                context = open_context(
                    recipe, run, progress, base_dir=base_dir, cache_dir=cache_dir()
                )
            progress.number([stage.label for stage in outline(context)])
            try:
                yield context
            finally:
                context.shelf.close()
                context.trackers.close()
    finally:
        progress.close()
