"""``cream rerank fit|score|eval``: candidates of queries put into a better order."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cream.cache import cache_dir
from cream.cli.console import (
    Json,
    Overrides,
    Quiet,
    held_folder,
    output,
    print_json,
    say,
)
from cream.recipe.model import EMBEDDED_NAME

if TYPE_CHECKING:
    from cream.data.candidates import CandidateGroup

rerank = typer.Typer(
    name="rerank",
    help="Put the candidates of queries into a better order, and measure it.",
    no_args_is_help=True,
)

Candidates = Annotated[
    Path,
    typer.Argument(
        metavar="FILE", help="JSONL of queries with candidates, or a TREC run (see --queries)."
    ),
]
Queries = Annotated[
    Path | None, typer.Option("--queries", help="Texts of queries, TSV or JSONL; for a TREC run.")
]
Passages = Annotated[
    Path | None,
    typer.Option("--passages", help="Texts of candidates, TSV or JSONL; for a TREC run."),
]
Judgements = Annotated[
    Path | None, typer.Option("--qrels", help="Judgements of TREC, MS MARCO or BEIR.")
]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Folder to write.")]


def _groups(
    path: Path, queries: Path | None, passages: Path | None, qrels: Path | None
) -> list[CandidateGroup]:
    from cream.data.candidates import judged, read_groups, read_judgements
    from cream.programs.reranking import groups_of_run

    if path.is_dir():
        return groups_of_run(path)
    groups = read_groups(path, queries=queries, passages=passages)
    return groups if qrels is None else judged(groups, read_judgements(qrels))


@rerank.command("fit")
def fit(
    groups: Annotated[
        Path,
        typer.Argument(
            metavar="FILE|RUN",
            help="Graded candidates: JSONL, a TREC run with --qrels, or a run of `cream run`.",
        ),
    ],
    out: Out,
    model: Annotated[
        str, typer.Option("--model", help="Local folder, hub id, or embedded name.")
    ] = EMBEDDED_NAME,
    queries: Queries = None,
    passages: Passages = None,
    qrels: Judgements = None,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train a reranker on graded candidates; given again after an interruption, it goes on."""
    from cream.programs.reranking import fit_reranker, reranker_config
    from cream.types import counts

    config = reranker_config(
        {"model": {"name": model}, "windows": {"scale": "none"}}, overrides or ()
    )
    given = _groups(groups, queries, passages, qrels)
    with held_folder(out, quiet=quiet) as progress:
        fitted = fit_reranker(given, config, out, cache_dir=cache_dir(), progress=progress)
    if as_json:
        print_json(fitted)
        return
    losses = ", ".join(
        f"{k} {fitted.first[k]:.3f} -> {v:.3f}"
        for k, v in fitted.last.items()
        if k.startswith("loss")
    )
    parts = counts(fitted.tally.parts)
    say(f"{out}: {fitted.groups} queries, {fitted.steps} steps; {losses}")
    say(f"candidates: {parts} of {fitted.tally.total}; {fitted.cut} cut")


@rerank.command("score")
def score(
    reranker: Annotated[
        str,
        typer.Argument(
            metavar="RERANKER", help="Folder of `cream rerank fit`, or a model, without training."
        ),
    ],
    candidates: Candidates,
    out: Out,
    queries: Queries = None,
    passages: Passages = None,
    overrides: Overrides = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score candidates and write a TREC run; given again after an interruption, it goes on."""
    from cream.preflight.models import open_reranker
    from cream.programs.reranking import score_candidates
    from cream.recipe.model import ModelConfig
    from cream.types import counts

    groups = _groups(candidates, queries, passages, None)
    with held_folder(out, quiet=quiet) as progress:
        with progress.busy("checking the model"):
            opened = open_reranker(reranker, ModelConfig(), out, cache_dir())
        scored = score_candidates(groups, opened, overrides or (), out, progress=progress)
    if as_json:
        print_json(scored)
        return
    parts = counts(scored.tally.parts)
    say(
        f"{scored.run_file}: {scored.queries} queries; {parts} of {scored.tally.total}; "
        f"{scored.cut} cut"
    )


@rerank.command("eval")
def evaluate(
    source: Annotated[
        Path, typer.Argument(metavar="SCORES", help="Folder of `cream rerank score`, or TREC run.")
    ],
    qrels: Judgements = None,
    relevant: Annotated[
        float, typer.Option("--relevant", help="Grade from which a candidate counts for MRR.")
    ] = 1.0,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of the intervals.")] = 0,
    as_json: Json = False,
) -> None:
    """Measure a ranking by judgements: nDCG@10, MRR@10, pairs, length, bias of identifiers."""
    from rich.table import Table

    from cream.programs.ranking_evaluation import evaluate_ranking
    from cream.report.terminal import printable
    from cream.types import counts

    found = evaluate_ranking(source, qrels, relevant=relevant, seed=seed)
    if as_json:
        print_json(found)
        return
    table = Table(title=printable(str(source)), title_justify="left")
    for name in ("figure", "mean", "95 % interval", "n"):
        table.add_column(name, justify="left" if name == "figure" else "right")
    rows = {**found.figures, **{f"identifier {k}": v for k, v in found.identifier_bias.items()}}
    for name, one in rows.items():
        told = one.reason or "" if one.mean is None else f"{one.mean:.4f}"
        spread = "" if one.low is None else f"{one.low:.4f} to {one.high:.4f}"
        table.add_row(name, told, spread, str(one.n))
    output().print(table)
    say(
        f"queries: {found.queries} measured, {found.not_ranked} judged and not ranked, "
        f"{found.not_judged} ranked and not judged"
    )
    if found.unscored:
        say("without a score: " + counts(found.unscored))
