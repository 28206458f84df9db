"""``cream compare``: several methods and seeds of one recipe, as one job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cream.cache import cache_dir
from cream.cli.console import (
    AcceptChanges,
    ConsoleProgress,
    Json,
    Overrides,
    Quiet,
    RecipePath,
    messages,
    output,
    print_json,
    stopping_gently,
)
from cream.errors import RecipeError

if TYPE_CHECKING:
    from cream.comparison.members import ComparisonPlan

DATA, PAGE = "comparison.json", "report.html"
"""What is written beside the runs."""


def compare(
    recipe: RecipePath,
    methods: Annotated[
        str,
        typer.Option(
            metavar="A,B,C", help="Methods, with options as in cream_sample{level: shrunken}."
        ),
    ] = "",
    methods_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML list `methods` of {name, method}, instead of --methods."
        ),
    ] = None,
    seeds: Annotated[
        str | None, typer.Option(metavar="0,1,2", help="Seeds; by default the recipe's own.")
    ] = None,
    baseline: Annotated[
        str | None, typer.Option(help="Method to compare the others with; by default the first.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder; by default the run's with -compare behind."),
    ] = None,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Run several methods and seeds of a recipe; what is equal is computed once.

    Given again after an interruption, or with more methods or seeds, it goes on.
    """
    from cream.comparison.members import make_plan, parse_methods, read_methods

    if bool(methods) == (methods_file is not None):
        raise RecipeError("say what to compare: --methods A,B,C, or --methods-file FILE")
    plan = make_plan(
        recipe,
        overrides or (),
        read_methods(methods_file) if methods_file else parse_methods(methods),
        seeds=None if seeds is None else _seeds(seeds),
        baseline=baseline,
        root=out,
    )
    _run(plan, recipe.parent, quiet=quiet, accept_changes=accept_changes)
    _show(plan, as_json=as_json)


def _run(plan: ComparisonPlan, base_dir: Path, *, quiet: bool, accept_changes: bool) -> None:
    from cream.comparison.running import run_comparison

    progress = ConsoleProgress(messages(quiet=quiet))
    try:
        with stopping_gently(progress.stop_when_kept):
            run_comparison(
                plan,
                progress,
                base_dir=base_dir,
                cache_dir=cache_dir(),
                accept_changes=accept_changes,
            )
    finally:
        progress.close()


def _show(plan: ComparisonPlan, *, as_json: bool) -> None:
    """Write what came out, for each member too, and print it."""
    from cream.report.comparison import comparison_runs, summarise_comparison
    from cream.report.page import page_parts, write_page
    from cream.report.summary import summarise_run
    from cream.report.tables import print_comparison
    from cream.runs.files import write_json

    for run in comparison_runs(plan.root):
        write_json(run / "summary.json", summarise_run(run).as_json())
    comparison = summarise_comparison(plan.root)
    write_json(plan.root / DATA, comparison.as_json())
    shown, sections = page_parts([plan.root])
    page = write_page(shown, plan.root / PAGE, extra=sections)
    if as_json:
        print_json(comparison)
        return
    console = output()
    print_comparison(console, comparison)
    console.print(f"comparison: {plan.root}", markup=False, soft_wrap=True)
    console.print(f"page: {page.path}", markup=False, soft_wrap=True)


def _seeds(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    wrong = [part for part in parts if not (part.isascii() and part.isdigit())]
    if wrong:
        raise RecipeError(f"--seeds: {wrong[0]!r} is not a whole number from 0 on, as in 0,1,2")
    return [int(part) for part in parts]
