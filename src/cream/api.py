"""Running a recipe from Python. What else `cream` offers is listed in `cream.__init__`.

The same run as ``cream run`` makes: the same directory, the same stages, resumable by either.
Beside the recipe it takes objects of the user's (see `cream.loop.extensions`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from cream.algorithms.objective import Objective
from cream.cache import cache_dir
from cream.cli.console import ConsoleProgress, messages
from cream.loop.extensions import (
    Extensions,
    Method,
    OwnSampler,
    OwnScorer,
    OwnTransform,
    OwnVerifier,
)
from cream.loop.iterations import run_recipe
from cream.loop.stage_runner import Silent
from cream.preflight.opening import open_context
from cream.protocols import Progress
from cream.recipe import Recipe, load_recipe
from cream.report.summary import RunResult, summarise_run
from cream.runs.files import write_json
from cream.runs.store import Run


def run(
    recipe: str | Path | Recipe,
    *,
    overrides: Sequence[str] = (),
    base_dir: str | Path | None = None,
    method: Method | None = None,
    objective: Objective | None = None,
    verifier: OwnVerifier | None = None,
    sampler: OwnSampler | None = None,
    scorers: Mapping[str, OwnScorer] | None = None,
    transforms: Mapping[str, OwnTransform] | None = None,
    progress: Progress | None = None,
    accept_changes: bool = False,
) -> RunResult:
    """Run a recipe from wherever its run directory stands, and return the run.

    Args:
        recipe: File, or a recipe already loaded.
        overrides: ``a.b=c`` texts, as ``--set`` takes them; only with a file.
        base_dir: Folder that relative data paths start from. By default that of the file, or the
            current one.
        method: Stands in for the recipe's method.
        objective: Trains on the pairs in place of the method's objective.
        verifier: Checks the prompts whose source says ``verifier: custom``.
        sampler: Draws all completions, in place of the recipe's engine.
        scorers: Fill the score columns of these names, for a method that reads them.
        transforms: Make training examples of the pairs, for a method whose parts name one.
        progress: Told what happens; `console_progress` prints it. By default nothing is shown.
        accept_changes: Go on though another engine, dtype or version computes than the run was
            made by so far, which changes results.

    Raises:
        CreamError: What is wrong with recipe, data, model, directory or one of the objects.
        ValueError: Overrides for a recipe that is loaded already.
    """
    if isinstance(recipe, Recipe):
        if overrides:
            raise ValueError("overrides belong to load_recipe; this recipe is loaded already")
        loaded, folder = recipe, Path(base_dir or ".")
    else:
        loaded = load_recipe(Path(recipe), overrides)
        folder = Path(base_dir) if base_dir is not None else Path(recipe).parent
    own = Extensions(method, verifier, sampler, scorers or {}, objective, transforms or {})
    loaded = own.recorded(loaded)
    place = Run(Path(loaded.folder))
    with place.locked():
        context = open_context(
            loaded,
            place,
            progress or Silent(),
            base_dir=folder,
            cache_dir=cache_dir(),
            extensions=own,
            accept_changes=accept_changes,
        )
        try:
            run_recipe(context)
        finally:
            context.close()
        write_json(place.root / "summary.json", summarise_run(place.root).as_json())
    return RunResult(place.root)


def console_progress() -> ConsoleProgress:
    """The progress that the command line shows, on standard error."""
    return ConsoleProgress(messages())
