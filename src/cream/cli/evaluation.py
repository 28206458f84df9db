"""``cream eval``: a model on tasks, without a run; ``--lm-eval`` takes lm-eval-harness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from cream.cache import cache_dir
from cream.cli.console import ConsoleProgress, Json, Overrides, Quiet, messages, output, print_json
from cream.errors import RecipeError
from cream.report.terminal import printable

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
    from cream.engines.harness import HarnessSettings
    from cream.programs.evaluation import evaluate_outside
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
        from cream.cli.documents import OutsideEvaluation

        print_json(OutsideEvaluation.read(result, model))
    else:
        _print(output(), result)


def _print(console: Console, result: Mapping[str, Any]) -> None:
    table = Table(
        title=Text(printable(f"lm-eval {result['harness']}: {result['model']}")),
        title_justify="left",
    )
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
            table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)


def evaluate(
    model: Annotated[
        str, typer.Argument(help="Local folder (runs/x/models/M2), hub id, or embedded name.")
    ],
    tasks: Annotated[str, typer.Option("--tasks", help="Task names, separated by commas.")] = "",
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", help="Use this recipe's test data, template and limits."),
    ] = None,
    overrides: Overrides = None,
    count: Annotated[
        int, typer.Option("--count", min=1, help="Prompts in all, without a recipe.")
    ] = 200,
    max_tokens: Annotated[
        int, typer.Option("--max-tokens", min=1, help="Answer limit, without a recipe.")
    ] = 256,
    samples: Annotated[
        int, typer.Option("--samples", min=0, help="Samples per prompt, without a recipe.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed, without a recipe.")] = 0,
    lm_eval: LmEvalTasks = "",
    lm_eval_include: LmEvalInclude = None,
    lm_eval_limit: LmEvalLimit = None,
    lm_eval_fewshot: LmEvalFewshot = None,
    lm_eval_chat: LmEvalChat = False,
    out: LmEvalOut = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model: on reasoning-gym tasks, on a recipe's test data, or with lm-eval-harness."""
    if lm_eval:
        if tasks or recipe is not None:
            raise RecipeError("give one of --tasks, --recipe and --lm-eval")
        options = LmEvalOptions(
            lm_eval_include, lm_eval_limit, lm_eval_fewshot, lm_eval_chat, seed, out
        )
        measure_outside(model, lm_eval, options, as_json=as_json, quiet=quiet)
        return
    from cream.recipe import load_recipe
    from cream.recipe.data import ReasoningGymSource, TaskConfig, TestData
    from cream.recipe.engine import AutoEngine
    from cream.recipe.model import ModelConfig
    from cream.recipe.recipe import EvaluationConfig

    names = [name.strip() for name in tasks.split(",") if name.strip()]
    trajectory = None
    if recipe is not None:
        loaded = load_recipe(recipe, overrides or ())
        if loaded.data.test is None:
            raise RecipeError(f"{recipe} has no data.test to evaluate on")
        config = loaded.model.model_copy(
            update={"name": model, "revision": None, "from_scratch": None}
        )
        test, settings, seed = loaded.data.test, loaded.evaluation, loaded.seed
        engine, trajectory = loaded.engine, loaded.parts(1).trajectory
    elif names:
        config = ModelConfig(name=model)
        source = ReasoningGymSource(
            source="reasoning_gym", tasks=[TaskConfig(name=name) for name in names], count=count
        )
        test, names = TestData(sources=[source]), []
        settings = EvaluationConfig(max_completion_tokens=max_tokens, num_samples=samples)
        engine = AutoEngine()
    else:
        raise RecipeError(
            "say what to evaluate on: --tasks NAME,NAME, --recipe RECIPE, or --lm-eval NAME,NAME"
        )

    from cream.programs.evaluation import evaluate_model
    from cream.report.summary import ModelResult, summarise_evaluation
    from cream.report.tables import evaluation_tables

    progress = ConsoleProgress(messages(quiet=quiet))
    try:
        table, baseline = evaluate_model(
            config,
            test,
            settings,
            engine,
            seed=seed,
            tasks=names,
            trajectory=trajectory,
            base_dir=recipe.parent if recipe else Path(),
            cache_dir=cache_dir(),
            progress=progress,
        )
    finally:
        progress.close()
    found = summarise_evaluation(table)
    if as_json:
        from cream.cli.documents import EvaluatedModel

        print_json(EvaluatedModel(model=model, seed=seed, baseline=baseline, **dict(found)))
        return
    result = ModelResult(model="model", gain=None, **dict(found))
    for block in evaluation_tables(f"{model}, seed {seed}", [result], baseline):
        output().print(block)
