"""``cream steer fit|score|eval``: a reward that a few choices of one user steer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cream.cache import cache_dir
from cream.cli.console import Json, Overrides, Quiet, held_folder, output, print_json, say
from cream.errors import RecipeError
from cream.recipe.model import EMBEDDED_NAME

steer = typer.Typer(
    name="steer",
    help="Score answers as one user would, by a few of that user's choices.",
    no_args_is_help=True,
)

Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.")]
Pairs = Annotated[
    Path,
    typer.Argument(metavar="PAIRS", help="Rows of prompt, a, b, choice (a, b, tie), user_id."),
]
Reward = Annotated[
    Path, typer.Argument(metavar="REWARD", help="Folder that `cream steer fit` wrote.")
]
ModelNow = Annotated[
    str | None, typer.Option("--model", help="Where its model is now, if it was moved.")
]


@steer.command("fit")
def fit(
    pairs: Pairs,
    out: Out,
    model: Annotated[
        str, typer.Option("--model", help="Local folder, hub id, or embedded name.")
    ] = EMBEDDED_NAME,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a reward on choices of users; given again after an interruption, it goes on."""
    from cream.data.preferences import read_preferences
    from cream.programs.steering import fit_reward, steering_config
    from cream.types import counts

    config = steering_config({"model": {"name": model}}, overrides or ())
    given = read_preferences(pairs)
    with held_folder(out, quiet=quiet) as progress:
        fitted = fit_reward(given, config, out, cache_dir=cache_dir(), progress=progress)
    if as_json:
        print_json(fitted)
        return
    rows = counts(fitted.rows.parts)
    choices = counts(fitted.choices.parts)
    say(
        f"{out}: {fitted.users} users, {fitted.steps} steps; loss {fitted.loss:.3f}, without "
        f"context {fitted.pooled_loss:.3f}"
    )
    say(f"rows: {rows} of {fitted.rows.total}; choices: {choices} of {fitted.choices.total}")
    if fitted.unused:
        say("not used: " + ", ".join(f"{name} ({n} rows)" for name, n in fitted.unused.items()))


@steer.command("score")
def score(
    reward: Reward,
    completions: Annotated[
        Path, typer.Argument(metavar="COMPLETIONS", help="Rows of prompt and completion.")
    ],
    out: Out,
    context: Annotated[
        Path | None,
        typer.Option("--context", help="Choices of one user; without, nobody in particular."),
    ] = None,
    questions: Annotated[
        int, typer.Option("--questions", min=0, help="Pairs to ask the user about.")
    ] = 1,
    model: ModelNow = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score answers for one user; given again after an interruption, it goes on."""
    from cream.data.preferences import read_context, read_responses
    from cream.preflight.models import open_steering
    from cream.programs.steering import score_responses
    from cream.types import counts

    given, known = read_responses(completions), None if context is None else read_context(context)
    with held_folder(out, quiet=quiet) as progress:
        with progress.busy("checking the model"):
            opened = open_steering(reward, model, "auto", out, cache_dir())
        found = score_responses(opened, given, known, out, questions=questions, progress=progress)
    if as_json:
        print_json(found)
        return
    parts = counts(found.tally.parts)
    whom = "nobody in particular" if found.user is None else f"user {found.user}"
    say(f"{found.scores_file}: {parts} of {found.tally.total}, for {whom}")
    alike = "" if found.alike is None else f"; {found.alike:.1f} of the users trained on are alike"
    say(f"choices read: {found.context}, not readable: {found.unread}{alike}")
    for one in found.questions:
        say(f"ask next: {one.prompt[-1]['content']}")
        say(f"  a: {one.a}")
        say(f"  b: {one.b}")
        say(f"  chance of a {one.chance:.2f} +- {one.deviation:.2f}")


@steer.command("eval")
def evaluate(
    reward: Reward,
    pairs: Pairs,
    out: Out,
    contexts: Annotated[
        str, typer.Option("--contexts", help="Sizes of the context, separated by commas.")
    ] = "0,1,3,5,10",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of halves and intervals.")] = 0,
    model: ModelNow = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a reward on users that it has not seen: own context, another's, flipped, none."""
    from rich.table import Table

    from cream.data.preferences import read_preferences
    from cream.preflight.models import open_steering
    from cream.programs.steering_evaluation import Estimate, evaluate_reward

    parts = [part.strip() for part in contexts.split(",")]
    if not all(part.isascii() and part.isdecimal() and len(part) < 7 for part in parts):
        raise RecipeError(f"--contexts {contexts!r}: write whole numbers, such as 0,1,3,5,10")
    given = read_preferences(pairs)
    with held_folder(out, quiet=quiet) as progress:
        with progress.busy("checking the model"):
            opened = open_steering(reward, model, "auto", out, cache_dir())
        found = evaluate_reward(
            opened, given, out, sizes=[int(part) for part in parts], seed=seed, progress=progress
        )
    if as_json:
        print_json(found)
        return

    def cell(one: Estimate) -> str:
        if one.mean is None:
            return str(one.reason)
        return f"{one.mean:.3f} ({one.low:.3f} to {one.high:.3f})"

    table = Table(title="accuracy on unseen choices, 95 % intervals", title_justify="left")
    arms = list(found.sizes[0].accuracy)
    for name in ("C", "users", *arms, "own - other", "steering index"):
        table.add_column(name, justify="right")
    for row in found.sizes:
        cells = [cell(row.accuracy[arm]) for arm in arms]
        table.add_row(
            str(row.size),
            str(row.accuracy["own"].n),
            *cells,
            cell(row.gain["other"]),
            cell(row.steering_index),
        )
    output().print(table)
    say(
        f"users: {found.users} measured, {found.trained_on} trained on and left out; choices "
        f"not readable: {found.unread}"
    )
