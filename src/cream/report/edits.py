"""What edits touched in a run that makes them: figures per iteration, and every edit as a row."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from cream.errors import RunError
from cream.pair_records import EditSummary, TokenHeadSummary
from cream.recipe.columns import EDIT_OF, EDIT_OUTCOME
from cream.records import Count, Record
from cream.report.ranked import read_asked
from cream.runs.files import replacing_file
from cream.runs.reader import FinishedStage, RunReader, rows_of
from cream.types import Origin


class EditedIteration(EditSummary):
    """Edits of an iteration of a run whose method makes them."""

    iteration: Annotated[int, Field(ge=1)]
    head: TokenHeadSummary | None = Field(default=None, exclude_if=lambda value: value is None)
    """What a head learnt from them; null where none did."""


class WrittenEdits(Record):
    """What was written."""

    run: str
    """Run directory as given."""
    iteration: Annotated[int, Field(ge=1)]
    file: str
    rows: Count
    edited: Count
    """Rows that hold an edit."""


def edited_iterations(run: RunReader) -> list[EditedIteration]:
    """Those whose edits are finished."""
    heads = {stage.spec.t: stage.summary(TokenHeadSummary) for stage in run.of("token_head")}
    return [
        EditedIteration(
            iteration=stage.spec.t,
            head=heads.get(stage.spec.t),
            **dict(stage.summary(EditSummary)),
        )
        for stage in run.of("edit")
    ]


def edit_rows(root: Path, iteration: int | None) -> tuple[int, list[dict[str, Any]]]:
    """Every sampled completion of an iteration with its edit, or without one yet.

    A row is what `editor: {by: file}` reads: ``completion_id``, ``original``, ``edited``; beside
    them ``prompt``, ``answer``, and ``outcome``, which says why there is no edit.

    Args:
        root: Run directory.
        iteration: t; None for the last one that has samples.

    Raises:
        RunError: No such run, or no samples of that iteration yet.
    """
    run = RunReader(root)
    t = iteration or max((stage.spec.t for stage in run.of("sample")), default=0)
    sampled = run.sole("sample", t)
    if sampled is None:
        which = f"iteration {t or 1}"
        raise RunError(f"{root} has no samples of {which} yet; `cream sample` draws them")
    asked, edits = read_asked(run.asked(t)), run.sole("edit", t)
    made = {} if edits is None else _edits(edits)
    outcomes = {} if edits is None else dict(edits.rows("completion_id", EDIT_OUTCOME))
    rows = []
    for prompt, key, text, origin in sampled.rows("prompt_id", "completion_id", "text", "origin"):
        if origin == Origin.POLICY:
            told = asked[prompt]
            rows.append(
                {
                    "completion_id": key,
                    "prompt": [turn.model_dump() for turn in told.turns],
                    "answer": told.answer,
                    "original": text,
                    "edited": made.get(key),
                    "outcome": outcomes.get(key),
                }
            )
    return t, rows


def _edits(stage: FinishedStage) -> Mapping[str, str]:
    """Edited text by completion id of the original."""
    names = (EDIT_OF, "text", "origin")
    return {
        original: text
        for table in stage.tables(names)
        for original, text, origin in rows_of(table, *names)
        if origin == Origin.EDITED
    }


def write_edits(root: Path, t: int, rows: Sequence[Mapping[str, Any]], out: Path) -> WrittenEdits:
    """Write the rows as JSONL, whole or not at all."""
    with replacing_file(out) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for row in rows:
            stream.write(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n")
    edited = sum(row["edited"] is not None for row in rows)
    return WrittenEdits(run=str(root), iteration=t, file=str(out), rows=len(rows), edited=edited)
