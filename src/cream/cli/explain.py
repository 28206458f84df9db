"""``cream explain``: why one prompt of a run got its pair, or none."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cream.cli.console import output
from cream.cli.shared import Json


class Question(StrEnum):
    """What to explain."""

    CONSISTENCY = "consistency"
    PAIR = "pair"
    REWARD = "reward"


def explain(
    question: Annotated[Question, typer.Argument(help="What to explain.")],
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")],
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
    from cream.inspect.explain import explain as explained
    from cream.inspect.tables import print_explanation

    told = explained(question.value, run, prompt, t)
    if as_json:
        typer.echo(json.dumps(told, indent=2))
    else:
        print_explanation(output(), told)
