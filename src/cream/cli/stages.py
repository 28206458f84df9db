"""``cream sample|score|pair|train``: single stages of a recipe's run, over the same files.

Each makes its own artifact and asks for what it reads to be finished already.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cream.cli.shared import Json, Overrides, Quiet, RecipePath, opened
from cream.errors import RunError

Iteration = Annotated[
    int, typer.Option("--iteration", "-t", min=1, help="Iteration t: M_t -> M_{t+1}.")
]


def sample(
    recipe: RecipePath,
    t: Iteration = 1,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Sample completions for the prompts of iteration t, of M_t and of what the method adds."""
    with opened(recipe, overrides, quiet=quiet) as context:
        from cream.loop.data_steps import freeze_data
        from cream.loop.iterations import sample_iteration

        freeze_data(context)
        _tell(sample_iteration(context, t).summary, as_json=as_json)


def score(
    recipe: RecipePath,
    t: Iteration = 1,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score iteration t's completions under every model the method needs."""
    with opened(recipe, overrides, quiet=quiet) as context:
        from cream.loop.iterations import score_iteration

        _tell(score_iteration(context, t).summary, as_json=as_json)


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
) -> None:
    """Make the pairs of iteration t.

    With --from, again from the score matrix of a finished run under other settings (--set
    method=srlm, --set method.level=sample): no model is loaded, only the columns needed are read.
    """
    if (recipe is None) == (source is None):
        raise RunError("give either a RECIPE, or --from RUN to recompute pairs of a finished run")
    if source is not None:
        from cream.loop.recompute import recompute_pairs

        summary = recompute_pairs(source, t, overrides or (), out)
    else:
        assert recipe is not None
        with opened(recipe, overrides, quiet=quiet) as context:
            from cream.loop.pair_step import pair_step

            summary = dict(pair_step(context, context.phase(t)).summary)
    if as_json:
        typer.echo(json.dumps(summary, indent=2))
    else:
        from cream.loop.pairing import outcome_in_words

        typer.echo(f"iteration {t}: {outcome_in_words(summary)}")


def train(
    recipe: RecipePath,
    t: Annotated[
        int,
        typer.Option("--iteration", "-t", min=0, help="Iteration t; 0 is fine-tuning M0 -> M1."),
    ] = 1,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train M_{t+1} on the pairs of iteration t, or M1 on the seed examples (-t 0)."""
    with opened(recipe, overrides, quiet=quiet) as context:
        from cream.loop.data_steps import freeze_data
        from cream.loop.training_steps import sft_step, train_step

        freeze_data(context)
        record = sft_step(context) if t == 0 else train_step(context, context.phase(t))
        _tell(record.summary, as_json=as_json)


def _tell(summary: Mapping[str, Any], *, as_json: bool) -> None:
    """What a stage holds: all of it as JSON, or its plain figures on a line."""
    if as_json:
        typer.echo(json.dumps(dict(summary), indent=2))
        return
    told = {key: value for key, value in summary.items() if isinstance(value, int | float | str)}
    told |= {key: ", ".join(v) for key, v in summary.items() if isinstance(v, list) and v}
    typer.echo("; ".join(f"{key.replace('_', ' ')} {value}" for key, value in told.items()))
