"""``cream run``, and ``cream sample|score|pair|train``: a recipe's run, whole or one stage of it.

A single stage works over the same files; it makes its own artifact and asks for what it reads to
be finished already.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    say,
    stopping_gently,
)
from cream.errors import RunError

if TYPE_CHECKING:
    from cream.loop.context import Context


@contextmanager
def opened(
    recipe_path: Path, overrides: Sequence[str] | None, *, quiet: bool, accept_changes: bool = False
) -> Iterator[Context]:
    """Open the run of a recipe: everything checked, nothing loaded, the directory held."""
    from cream.recipe import load_recipe

    recipe = load_recipe(recipe_path, overrides or ())
    progress = ConsoleProgress(messages(quiet=quiet))
    try:
        with progress.busy("checking recipe, data and model"):
            from cream.preflight.opening import open_context
            from cream.runs.store import Run

        run = Run(Path(recipe.folder))
        with run.locked(), stopping_gently(progress.stop_when_kept):
            with progress.busy("checking recipe, data and model"):
                context = open_context(
                    recipe,
                    run,
                    progress,
                    base_dir=recipe_path.parent,
                    cache_dir=cache_dir(),
                    accept_changes=accept_changes,
                )
            progress.number([s.label for s in context.plan.stages if s.source is not None])
            try:
                yield context
            finally:
                context.close()
    finally:
        progress.close()


def run(
    recipe: RecipePath,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Run a recipe from start to end; given again after an interruption, it goes on."""
    with opened(recipe, overrides, quiet=quiet, accept_changes=accept_changes) as context:
        from cream.loop.iterations import run_recipe
        from cream.report.summary import summarise_run
        from cream.report.tables import run_tables
        from cream.runs.files import write_json

        run_recipe(context)
        root = context.run.root
        summary = summarise_run(root)
        write_json(root / "summary.json", summary.as_json())
    if as_json:
        print_json(summary)
    else:
        console = output()
        console.print(run_tables(summary))
        console.print(f"run directory: {root}", markup=False, soft_wrap=True)
        console.print(f"to read it: cream report {root}", markup=False, soft_wrap=True)


if TYPE_CHECKING:
    from cream.loop.context import Context

Iteration = Annotated[
    int, typer.Option("--iteration", "-t", min=1, help="Iteration t: M_t -> M_{t+1}.")
]


def sample(
    recipe: RecipePath,
    t: Iteration = 1,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Sample completions for the prompts of iteration t, of M_t and of what the method adds."""
    with opened(recipe, overrides, quiet=quiet, accept_changes=accept_changes) as context:
        from cream.loop.iterations import sample_iteration

        _freeze(context)
        _tell(sample_iteration(context, t).summary, as_json=as_json)


def score(
    recipe: RecipePath,
    t: Iteration = 1,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Score iteration t's completions under every model the method needs."""
    with opened(recipe, overrides, quiet=quiet, accept_changes=accept_changes) as context:
        from cream.loop.iterations import score_iteration

        _tell(score_iteration(context, t).summary, as_json=as_json)


def trust(
    recipe: RecipePath,
    t: Iteration = 1,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Tell how far the labels that M_t gives itself can be trusted, before it is trained on them.

    Makes what is missing: for t = 1 the fine-tuned models, then samples and scores. `cream run`
    goes on from there.
    """
    with opened(recipe, overrides, quiet=quiet) as context:
        from cream.loop.iterations import run_stage, sample_iteration, score_iteration

        for spec in context.plan.at(0) if t == 1 else ():
            if spec.kind != "evaluate":
                run_stage(context, spec)
        sample_iteration(context, t)
        score_iteration(context, t)
        root = context.run.root
    from cream.report.signals import print_trust, trust_report
    from cream.runs.reader import RunReader

    report = trust_report(RunReader(root), t)
    if as_json:
        print_json(report)
    else:
        print_trust(output(), report)


def pair(
    recipe: Annotated[
        Path | None, typer.Argument(metavar="[RECIPE]", help="Recipe whose run to pair.")
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option("--from", metavar="RUN", help="Recompute from this run, without a model."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the recomputed pairs (with --from).")
    ] = None,
    t: Iteration = 1,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Make the pairs of iteration t.

    With --from, again from the score matrix of a finished run under other settings (--set
    method=srlm, --set method.level=sample): no model is loaded, only the columns needed are read.
    """
    if (recipe is None) == (source is None):
        raise RunError("give either a RECIPE, or --from RUN to recompute pairs of a finished run")
    from cream.programs.recompute import RecomputedPairs, recompute_pairs

    if source is not None:
        summary = recompute_pairs(source, t, overrides or (), out)
    else:
        assert recipe is not None
        with opened(recipe, overrides, quiet=quiet, accept_changes=accept_changes) as context:
            from cream.loop.iterations import run_stage

            record = run_stage(context, context.plan.pairing(t))
            summary = RecomputedPairs.read(record.summary, context.run.root)
    if as_json:
        print_json(summary)
    else:
        from cream.loop.pairing import outcome_in_words

        say(f"iteration {t}: {outcome_in_words(summary)}")


def train(
    recipe: RecipePath,
    t: Annotated[
        int,
        typer.Option("--iteration", "-t", min=0, help="Iteration t; 0 is fine-tuning M0 -> M1."),
    ] = 1,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
    accept_changes: AcceptChanges = False,
) -> None:
    """Train M_{t+1} on the pairs of iteration t, or M1 on the seed examples (-t 0).

    A witness that learns along goes through its own iteration t, from samples to training.
    """
    with opened(recipe, overrides, quiet=quiet, accept_changes=accept_changes) as context:
        from cream.loop.iterations import run_stage

        _freeze(context)
        spec = context.plan.maker(f"M{t + 1}")
        read = [context.plan.named(name) for name in spec.inputs]
        read += [context.plan.named(name) for one in read for name in one.inputs]
        wanted = [one for one in read if one.kind in ("advantage", "score_tokens")]
        for one in sorted(wanted, key=context.plan.stages.index):
            if one.t == spec.t:
                run_stage(context, one)
        record = run_stage(context, spec)
        for one in context.plan.at(t):
            if one.learner is not None:
                run_stage(context, one)
        _tell(record.summary, as_json=as_json)


def _freeze(context: Context) -> None:
    """Keep the data, which all stages work on."""
    from cream.loop.iterations import run_stage

    for spec in context.plan.stages:
        if spec.kind in ("freeze_prompts", "freeze_seed", "freeze_seed_parts"):
            run_stage(context, spec)


def _tell(summary: Mapping[str, Any], *, as_json: bool) -> None:
    """What a stage holds: all of it as JSON, or its plain figures on a line."""
    if as_json:
        typer.echo(json.dumps(dict(summary), indent=2))
        return
    told = {key: value for key, value in summary.items() if isinstance(value, int | float | str)}
    told |= {key: ", ".join(v) for key, v in summary.items() if isinstance(v, list) and v}
    say("; ".join(f"{key.replace('_', ' ')} {value}" for key, value in told.items()))
