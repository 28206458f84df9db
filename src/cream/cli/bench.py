"""``cream bench``: Cream timed side by side with what one would otherwise run."""

from __future__ import annotations

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from cream.cache import cache_dir
from cream.cli.console import Json, Quiet, messages, output, print_json

RESULTS = Path("docs/results")
QUICKSTART = Path("recipes/quickstart.yaml")


class What(StrEnum):
    """Parts of the benchmark."""

    SAMPLING = "sampling"
    SCORING = "scoring"
    TRAINING = "training"
    WORKERS = "workers"
    ALL = "all"


def bench(
    what: Annotated[What, typer.Argument(help="What to time.")] = What.ALL,
    model: Annotated[
        str, typer.Option("--model", help="Local folder, hub id, or embedded name.")
    ] = "smollm2-135m-instruct",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Rounds that count.")] = 5,
    quick: Annotated[bool, typer.Option("--quick", help="Small inputs, nothing kept.")] = False,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="CPU threads; default: all cores.")
    ] = None,
    vllm_python: Annotated[
        Path | None, typer.Option("--vllm-python", help="Python of an environment with vLLM.")
    ] = None,
    recipe: Annotated[
        Path | None,
        typer.Option("--recipe", help=f"Recipe of the short answers; default: {QUICKSTART}."),
    ] = None,
    run: Annotated[
        Path | None,
        typer.Option("--run", help="Finished run of it, whose M1 answers; default: its M0."),
    ] = None,
    scaling: Annotated[
        bool, typer.Option("--scaling", help="Also how the cost grows with N, lengths and size.")
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Also the whole recipe, once; takes minutes.")
    ] = False,
    allow_load: Annotated[
        bool, typer.Option("--allow-load", help="Go on beside other processes, and say so.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", help=f"Folder for JSON and figure; default: {RESULTS} if it exists."),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Time Cream in turns with what one would otherwise run, and workers with one process."""
    from cream.bench.program import BenchPart, Settings, open_benchmark
    from cream.bench.results import draw_figure, print_document
    from cream.recipe.model import ModelConfig
    from cream.runs.files import replacing_file, write_json

    settings = Settings(
        parts=tuple(BenchPart) if what is What.ALL else (BenchPart(what.value),),
        rounds=rounds,
        quick=quick,
        threads=threads,
        recipe=recipe or (QUICKSTART if QUICKSTART.exists() else None),
        trained=run,
        vllm_python=vllm_python,
        scaling=scaling,
        whole=whole,
        allow_load=allow_load,
    )
    benchmark = open_benchmark(
        settings,
        ModelConfig(name=model, device=device),
        command=["cream", *sys.argv[1:]],
        cache_dir=cache_dir(),
        note=messages(quiet=quiet).print,
    )
    kept = out or (RESULTS if RESULTS.is_dir() and not quick else None)
    try:
        benchmark.run()
    finally:  # what was found before an error or Ctrl-C is kept, marked as incomplete
        from cream.cli.documents import BenchDocument

        found = BenchDocument.read(benchmark.document.as_json(), what.value)
        if kept is not None and found.rows:
            write_json(kept / f"{what.value}.json", found.as_json())
            with replacing_file(kept / f"{what.value}.svg") as figure:
                figure.write_text(draw_figure(benchmark.document), encoding="utf-8")
        if as_json:
            print_json(found)
        else:
            print_document(output(), benchmark.document)
