"""``cream sample|score|pair|train``: single stages of a recipe's run, over the same files.

Each makes its own artifact and asks for what it reads to be finished already.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from cream.cli.shared import Json, Overrides, Quiet, RecipePath, opened
from cream.errors import RunError

Iteration = Annotated[
    int, typer.Option("--iteration", "-t", min=1, help="Iteration t: M_t -> M_{t+1}.")
]


def sample(
    recipe: RecipePath, t: Iteration = 1, overrides: Overrides = None, quiet: Quiet = False
) -> None:
    """Sample completions of M_t for the prompts of iteration t."""
    with opened(recipe, overrides, quiet=quiet) as context:
        from cream.loop.data_steps import freeze_data
        from cream.loop.inference_steps import sample_step

        freeze_data(context)
        typer.echo(json.dumps(dict(sample_step(context, context.sample_set(t)).summary)))


def score(
    recipe: RecipePath, t: Iteration = 1, overrides: Overrides = None, quiet: Quiet = False
) -> None:
    """Score iteration t's completions under every model the method needs."""
    with opened(recipe, overrides, quiet=quiet) as context:
        from cream.loop.iterations import score_iteration

        typer.echo(json.dumps(dict(score_iteration(context, t).summary)))


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

            summary = dict(pair_step(context, t).summary)
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
    quiet: Quiet = False,
) -> None:
    """Train M_{t+1} on the pairs of iteration t, or M1 on the seed examples (-t 0)."""
    with opened(recipe, overrides, quiet=quiet) as context:
        from cream.loop.data_steps import freeze_data
        from cream.loop.training_steps import sft_step, train_step

        freeze_data(context)
        record = sft_step(context) if t == 0 else train_step(context, t)
        typer.echo(json.dumps(dict(record.summary)))
