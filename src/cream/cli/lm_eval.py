"""``cream eval --lm-eval``: its options, and the table of what came out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cream.cli.console import messages, output
from cream.runs.cache import cache_dir

BATCH_SIZE = 8
"""Examples that the harness runs together."""

LmEvalTasks = Annotated[
    str,
    typer.Option("--lm-eval", metavar="TASKS", help="Tasks of lm-eval-harness, with commas."),
]
LmEvalInclude = Annotated[
    Path | None,
    typer.Option(
        "--lm-eval-include",
        metavar="DIR",
        help="Folder with further task files (YAML; they may name Python code to run).",
    ),
]
LmEvalLimit = Annotated[
    int | None, typer.Option("--lm-eval-limit", min=1, help="Examples per task; all if not given.")
]
LmEvalFewshot = Annotated[
    int | None,
    typer.Option("--lm-eval-fewshot", min=0, help="Worked examples; default as the task says."),
]
LmEvalChat = Annotated[
    bool, typer.Option("--lm-eval-chat", help="Put questions into the model's chat template.")
]
LmEvalOut = Annotated[
    Path | None,
    typer.Option("--out", metavar="FILE", help="Where results of --lm-eval are stored (JSON)."),
]


@dataclass(frozen=True, slots=True)
class LmEvalOptions:
    """Options of the harness as given."""

    include: Path | None
    limit: int | None
    fewshot: int | None
    chat_template: bool
    seed: int
    out: Path | None


def measure_outside(
    model: str, tasks: str, options: LmEvalOptions, *, as_json: bool, quiet: bool
) -> None:
    """Run tasks of the harness on a model, store and print the results."""
    from cream.cli.progress import ConsoleProgress
    from cream.engines.harness import HarnessSettings
    from cream.loop.outside_tasks import evaluate_outside
    from cream.recipe.model import ModelConfig

    progress = ConsoleProgress(messages(quiet=quiet))
    try:
        result = evaluate_outside(
            ModelConfig(name=model),
            [name.strip() for name in tasks.split(",") if name.strip()],
            HarnessSettings(
                limit=options.limit,
                fewshot=options.fewshot,
                chat_template=options.chat_template,
                seed=options.seed,
                batch_size=BATCH_SIZE,
            ),
            include=options.include,
            out=options.out,
            cache_dir=cache_dir(),
            progress=progress,
        )
    finally:
        progress.close()
    if as_json:
        typer.echo(json.dumps(result, indent=2))
    else:
        _print(output(), result)


def _print(console: Console, result: Mapping[str, Any]) -> None:
    table = Table(title=f"lm-eval {result['harness']}: {result['model']}", title_justify="left")
    for name in ("task", "metric", "filter"):
        table.add_column(name)
    for name in ("value", "stderr", "n"):
        table.add_column(name, justify="right")
    for task in result["tasks"]:
        for metric in task["metrics"]:
            stderr = metric["stderr"]
            cells = (
                task["task"],
                metric["metric"],
                metric["filter"],
                f"{metric['value']:.4f}",
                "" if stderr is None else f"{stderr:.4f}",
                f"{task['n']} of {task['of']}",
            )
            table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
