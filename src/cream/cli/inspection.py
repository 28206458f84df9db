"""``cream plan|status|verify|explain|doctor``: questions that are answered without a run.

Nothing here trains or writes to a run directory.
"""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cream.cache import cache_dir
from cream.cli.console import (
    ConsoleProgress,
    Json,
    Overrides,
    Quiet,
    RecipePath,
    RunPath,
    messages,
    output,
    print_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cream.inspect.plan import Length
    from cream.inspect.rates import Rates
    from cream.inspect.spread import Spread
    from cream.loop.context import Context
    from cream.records import StageSpec


TIMED_PROMPTS = 32
"""How many prompts of the first iteration are at hand for timing."""


def plan(
    recipe: RecipePath,
    overrides: Overrides = None,
    timing: Annotated[
        bool,
        typer.Option(
            "--timing/--no-timing",
            "--calibrate/--no-calibrate",  # its first name
            help="Time the model for a few seconds; without, counts only.",
        ),
    ] = True,
    rates_file: Annotated[
        Path | None,
        typer.Option("--rates", help="Rates of another machine: `timing` of its plan, as JSON."),
    ] = None,
    bandwidth: Annotated[
        float | None,
        typer.Option("--bandwidth", min=0.001, help="GB/s that reach a rank from the others."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show the stages of a recipe, what each takes on this machine, and what is done already."""
    from cream.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or ())
    progress = ConsoleProgress(messages(quiet=quiet))
    with progress.busy("checking recipe, data and model"):
        from cream.algorithms.judging import verdict_question
        from cream.inspect.plan import LETTER_TOKENS, assumed_length, make_plan, print_plan
        from cream.inspect.rates import read_rates
        from cream.models.fingerprints import stored_parameters
        from cream.plan import token_counts
        from cream.preflight.opening import check_run, disk_need
        from cream.runs.store import Run

        run = Run(Path(loaded.folder))
        context = check_run(loaded, run, progress, base_dir=recipe.parent, cache_dir=cache_dir())
        stages = [spec for spec in context.plan.stages if spec.source is not None]
        counts = token_counts(
            context.plan,
            partial(context.encode, max_completion_tokens=0),
            context.encoder.encode_completion,
        )
        question = context.encoder.encode_prompt(verdict_question((), "", ""))
        length = assumed_length(run.root, stages, counts, loaded.sampling.max_completion_tokens)
    rates = None if rates_file is None else read_rates(rates_file)
    if timing and rates is None:
        with progress.busy("timing the model for a few seconds"):
            rates = _rates(context, length)
    parameters = stored_parameters(context.checkpoints.seed_folder)
    told = make_plan(
        loaded,
        run.root,
        stages,
        counts,
        length,
        parameters=parameters,
        disk_bytes=disk_need(context).total,
        rates=rates,
        question=len(question) + 2 * LETTER_TOKENS,
        spread=_spread(context, stages, parameters, bandwidth),
    )
    context.close()
    if as_json:
        print_json(told)
    else:
        print_plan(output(), told)


def _spread(
    context: Context, stages: Sequence[StageSpec], parameters: int, bandwidth: float | None
) -> Spread:
    from cream.inspect.spread import Spread, planned_ranks, planned_workers, scoring_ranks
    from cream.models.devices import pick_compute_dtype
    from cream.preflight.models import planned_trainings

    own = context.checkpoints
    ranks = []
    for name, settings, count in planned_trainings(context):
        dtype = pick_compute_dtype(own.device, settings.compute.precision).dtype
        ranks.append(planned_ranks(name, settings, count, parameters, itemsize=dtype.itemsize))
    model_bytes = parameters * own.compute_dtype.itemsize
    if context.recipe.scoring.ranks > 1:
        ranks.append(scoring_ranks(context.recipe.scoring.ranks, model_bytes))
    workers = planned_workers(context.recipe, context.crew, stages, model_bytes)
    return Spread(ranks, workers, None if bandwidth is None else bandwidth * 1e9)


def _rates(context: Context, length: Length) -> Rates:
    from cream.inspect.rates import measure_rates
    from cream.loop.context import sampling_params

    settings = context.recipe.sampling
    prompts = context.encode(
        context.plan.prompts(1)[:TIMED_PROMPTS], settings.max_completion_tokens
    )
    return measure_rates(
        context.recipe,
        context.plan.parts(1).objective,
        sampling_params(settings, context.encoder),
        [prompt.token_ids for prompt in prompts],
        max(1, round(length.tokens)),
        context.engine,
        lambda: context.checkpoints.for_training("M0"),
    )


def status(
    run: RunPath,
    as_json: Json = False,
) -> None:
    """Show which stages of a run are finished, and the results so far."""
    from cream.report.summary import status_of
    from cream.report.table import terminal
    from cream.report.tables import damage_table, run_tables, status_table

    found = status_of(run)
    if as_json:
        print_json(found)
        return
    console = output()
    console.print(terminal(status_table(found.stages)))
    if any(stage.problems for stage in found.stages):
        console.print(terminal(damage_table(found.stages)))
    console.print(run_tables(found.summary))


def verify(
    run: RunPath,
    as_json: Json = False,
) -> None:
    """Read every file of a run, models included; exit code 1 if one is not what was written."""
    with ConsoleProgress(messages()).busy("reading every file of the run"):
        from cream.report.table import terminal
        from cream.report.tables import damage_table, verification_table
        from cream.runs.verification import verify_run

        found = verify_run(run)
    if as_json:
        print_json(found)
    else:
        console = output()
        console.print(terminal(verification_table(found.stages)))
        if not found.whole:
            console.print(terminal(damage_table(found.stages)))
    if not found.whole:
        raise typer.Exit(1)


class Question(StrEnum):
    """What to explain."""

    CONSISTENCY = "consistency"
    PAIR = "pair"
    REWARD = "reward"


def explain(
    question: Annotated[Question, typer.Argument(help="What to explain.")],
    run: RunPath,
    prompt: Annotated[
        str, typer.Option("--prompt", metavar="ID", help="Id of the prompt, or its beginning.")
    ],
    t: Annotated[
        int | None,
        typer.Option(
            "--iteration", "-t", min=1, help="Iteration; by default the first with the prompt."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show one prompt's completions, their log-probs and ranks, and what was decided and why."""
    from cream.report.explain import explain as explained
    from cream.report.explain import print_explanation

    told = explained(question.value, run, prompt, t)
    if as_json:
        print_json(told)
    else:
        print_explanation(output(), told)


def doctor(
    measure: Annotated[
        bool,
        typer.Option("--measure/--no-measure", help="Time a matrix product and a copy (1 s)."),
    ] = True,
    cluster: Annotated[
        Path | None,
        typer.Option(
            "--cluster", metavar="FOLDER", help="Look at this folder from every node of a cluster."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Examine this machine; exit code 1 if something that a run needs is missing.

    With --cluster, the nodes of the Ray cluster that RAY_ADDRESS names: what they are, and whether
    they see the folder.
    """
    if cluster is not None:
        _doctor_of_nodes(cluster, as_json=as_json)
        return
    with ConsoleProgress(messages()).busy("examining the machine"):
        from cream.inspect.doctor import examine_machine, healthy, print_machine

        machine = examine_machine(cache_dir(), measure=measure)
    if as_json:
        print_json(machine)
    else:
        print_machine(output(), machine)
    if not healthy(machine.checks):
        raise typer.Exit(1)


def _doctor_of_nodes(folder: Path, *, as_json: bool) -> None:
    with ConsoleProgress(messages()).busy("asking a worker on every node"):
        from cream.inspect.cluster import differing, examine_cluster, print_nodes
        from cream.recipe.cluster import RayCluster

        nodes = examine_cluster(RayCluster(), folder)
    if as_json:
        print_json(nodes)
    else:
        print_nodes(output(), nodes)
    if differing(nodes) or any(node.problems for node in nodes):
        raise typer.Exit(1)
