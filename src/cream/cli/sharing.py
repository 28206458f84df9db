"""``cream report|export|push``: what leaves a run, as a page, as a dataset, as a model."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer

from cream.cli.console import Json, RunPath, output, print_json, say
from cream.errors import RunError

PAGE = "report.html"


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="RUN...", help="Run directories, or folders of comparisons."),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", help=f"The file to write; by default {PAGE} in the first run."),
    ] = None,
    full: Annotated[
        Path | None,
        typer.Option(
            "--full", help="A folder to write instead, with every record beside the page."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write one HTML page about a run: results, figures, and every prompt to read."""
    from cream.report.page import page_parts, write_full_page, write_page

    if out is not None and full is not None:
        raise typer.BadParameter("--out names a file and --full a folder; give one of them")
    shown, sections = page_parts(runs)
    if full is not None:
        result = write_full_page(shown, full, extra=sections)
    else:
        result = write_page(shown, out or runs[0] / PAGE, extra=sections)
    if as_json:
        from cream.cli.documents import WrittenPage

        print_json(
            WrittenPage(
                path=str(result.path),
                bytes=result.bytes,
                prompts=result.prompts,
                shown=result.shown,
                records="whole" if result.shown == result.prompts else "sampled",
            )
        )
        return
    shown = "all" if result.shown == result.prompts else f"a sample of {result.shown:,}"
    say(f"{result.path}: {result.bytes / 1e6:.1f} MB, {result.prompts:,} prompts, {shown} to read")


export = typer.Typer(
    name="export",
    help="Write pairs of a run as a dataset for other trainers.",
    no_args_is_help=True,
)

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


@export.command("edits")
def edits(
    run: RunPath,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="JSONL file to write.")],
    t: Annotated[
        int | None,
        typer.Option("--iteration", "-t", min=1, help="Iteration; the last with samples."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Samples with their edits, or to be edited by a person: what `editor: {by: file}` reads."""
    from cream.report.edits import edit_rows, write_edits

    iteration, rows = edit_rows(run, t)
    written = write_edits(run, iteration, rows, out)
    if as_json:
        print_json(written)
    else:
        say(f"wrote {written.rows} completions, {written.edited} of them edited: {written.file}")


def _export(
    run: Path, out: Path, t: int | None, file_format: str, *, seed: int | None, as_json: bool
) -> None:
    from cream.report.export import export_pairs, flip, write_export
    from cream.runs.manifest import without_local_paths

    if file_format not in ("jsonl", "parquet"):
        raise RunError(f"--format {file_format} is not known; it is jsonl or parquet")
    pairs = export_pairs(run, t)
    command = ["cream", "export", "trl" if seed is None else "flipped", str(run)]
    command += ["--iteration", str(pairs.iteration), "--out", str(out), "--format", file_format]
    if seed is not None:
        pairs = flip(pairs, seed=seed)
        command += ["--seed", str(seed)]
    written = write_export(
        pairs,
        run,
        out,
        file_format=file_format,
        command=shlex.join(without_local_paths(command)),
        seed=seed or 0,
    )
    if as_json:
        print_json(written)
    else:
        turned = "" if seed is None else f", {written.flipped} of them turned"
        say(f"wrote {written.pairs} pairs{turned}: {written.file}")


def push(
    run: RunPath,
    model: Annotated[str, typer.Option("--model", help="Which model of the run: M1, M2, ...")],
    to: Annotated[str, typer.Option("--to", metavar="OWNER/NAME", help="Repository on the hub.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make the repository private if it is new.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the files and the card; send nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Publish a model with a card of its data, method, results, licence and recipe."""
    from cream.models.publishing import push as send
    from cream.programs.publishing import model_upload
    from cream.report.summary import summarise_run

    upload = model_upload(run, model, to, summarise_run(run))
    url = None if dry_run else send(upload, private=private)
    sizes = upload.sizes()
    if as_json:
        from cream.cli.documents import Pushed, UploadFile

        print_json(
            Pushed(
                run=str(run),
                model=model,
                to=to,
                private=private,
                files=[UploadFile(name=name, bytes=size) for name, size in sizes.items()],
                left_out=list(upload.left_out),
                bytes=sum(sizes.values()),
                card=upload.card,
                url=url,
            )
        )
        return
    console = output()
    for name, size in sizes.items():
        console.print(f"{size:>13,d} bytes  {name}", markup=False, soft_wrap=True)
    if upload.left_out:
        console.print(f"not sent: {', '.join(upload.left_out)}", markup=False, soft_wrap=True)
    if url is None:
        console.print(f"\nREADME.md as it would stand at {to}:\n", markup=False, soft_wrap=True)
        console.print(upload.card, markup=False, soft_wrap=True)
    else:
        console.print(f"pushed {sum(sizes.values()):,d} bytes: {url}", markup=False, soft_wrap=True)
