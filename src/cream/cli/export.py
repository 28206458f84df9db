"""``cream export trl|flipped``: the pairs of a run as a dataset for other trainers."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Annotated

import typer

from cream.cli.shared import Json
from cream.errors import RunError

export = typer.Typer(
    name="export",
    help="Write pairs of a run as a dataset for other trainers.",
    no_args_is_help=True,
)

RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Iteration = Annotated[
    int | None,
    typer.Option("--iteration", "-t", min=1, help="Iteration; the last paired one if not given."),
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="New folder to write.")]
FormatName = Annotated[str, typer.Option("--format", help="jsonl or parquet.")]


@export.command("trl")
def trl(
    run: RunPath,
    out: Out,
    t: Iteration = None,
    file_format: FormatName = "jsonl",
    as_json: Json = False,
) -> None:
    """Pairs in TRL's conversational format, with consistency, margin and scores as columns."""
    _export(run, out, t, file_format, seed=None, as_json=as_json)


@export.command("flipped")
def flipped(
    run: RunPath,
    out: Out,
    t: Iteration = None,
    file_format: FormatName = "jsonl",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Decides which pairs turn.")] = 0,
    as_json: Json = False,
) -> None:
    """The same, each pair turned with probability 1 - C: CREAM's loss for a plain DPO trainer."""
    _export(run, out, t, file_format, seed=seed, as_json=as_json)


def _export(
    run: Path, out: Path, t: int | None, file_format: str, *, seed: int | None, as_json: bool
) -> None:
    from cream.report.export import export_pairs, flip
    from cream.report.export_files import write_export

    if file_format not in ("jsonl", "parquet"):
        raise RunError(f"--format {file_format} is not known; it is jsonl or parquet")
    pairs = export_pairs(run, t)
    command = ["cream", "export", "trl" if seed is None else "flipped", str(run)]
    command += ["--iteration", str(pairs.iteration), "--out", str(out), "--format", file_format]
    if seed is not None:
        pairs = flip(pairs, seed=seed)
        command += ["--seed", str(seed)]
    written = write_export(
        pairs, run, out, file_format=file_format, command=shlex.join(command), seed=seed or 0
    )
    if as_json:
        typer.echo(json.dumps(written, indent=2))
    else:
        turned = "" if seed is None else f", {written['flipped']} of them turned"
        typer.echo(f"wrote {written['pairs']} pairs{turned}: {written['file']}")
