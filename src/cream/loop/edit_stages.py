"""The stage that edits wrong completions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from cream.cache import expanded
from cream.data.files import file_rows
from cream.errors import DataError
from cream.loop.context import Context, sampling_params
from cream.loop.stage_runner import run_parts
from cream.pair_records import EditSummary
from cream.recipe.columns import EDIT_OF, EDIT_OUTCOME, TOUCHED
from cream.recipe.editing import FileEditor, ModelEditor, VerifierEditor
from cream.records import StageSpec
from cream.runs.files import read_table
from cream.runs.store import Stage, StageRecord, fingerprint
from cream.runs.tables import (
    completions_from_table,
    completions_to_table,
    read_metadata,
    with_metadata,
)
from cream.stages.edit import (
    ACCEPTED,
    ByModel,
    Edit,
    Editor,
    PersonsEdit,
    by_file,
    by_verifier,
    edit_all,
    edit_question,
    read_edits,
    tally,
)
from cream.types import Completion, counts

SPANS = "edit_spans"
"""Column: of an edit what changed, in characters of original and edit."""


def edit_stage(context: Context, spec: StageSpec) -> StageRecord:
    """The completions of a set, and behind those of each prompt the edits made of them."""
    (source,), settings = spec.inputs, context.plan.parts(spec.t).editing
    assert settings is not None, "planned for methods that edit"
    sampled, asked = context.run.finished(source), context.plan.sets[source].prompts
    rows = persons_edits(settings.editor)
    made_by: dict[str, Any] = {}
    if isinstance(settings.editor, ModelEditor):
        made_by = {
            "model": context.model_fingerprint(str(spec.model)),
            "question": fingerprint([m.content for m in edit_question((), "")]),
            "compute_dtype": str(context.checkpoints.compute_dtype),
            "max_completion_tokens": context.recipe.sampling.max_completion_tokens,
            **context.sampled_by,
        }
    stage = context.stage(
        spec,
        {
            "completions": sampled.fingerprint,
            "prompts": context.prompts_fingerprint(asked),
            "template": context.template_fingerprint,
            **context.verified_by(asked),
            "settings": settings.model_dump(mode="json", exclude={"editor": {"path"}}),
            "edits": fingerprint([[k, r.original, r.edited] for k, r in sorted(rows.items())]),
            **made_by,
        },
    )
    prompts = {p.prompt_id: p for p in asked}

    def work(path: Path) -> pa.Table:
        completions = completions_from_table(read_table(path))
        editor = _editor(context, spec, rows)
        edits = edit_all(completions, prompts, editor, context.verifier, settings, context.encoder)
        tokens = editor.tokens if isinstance(editor, ByModel) else 0
        return with_metadata(_table(edits), {"tokens": tokens})

    def summarise(stage: Stage) -> tuple[dict[str, Any], str]:
        found = summarise_edits(stage, settings.editor.by)
        return found.as_json(), outcome_in_words(found)

    return run_parts(stage, context.progress, sampled, work, summarise)


def persons_edits(editor: Any) -> dict[str, PersonsEdit]:
    """What a file of edits says; nothing where another edits.

    Raises:
        DataError: The file is not there, or is no such file.
    """
    if not isinstance(editor, FileEditor):
        return {}
    path = expanded(editor.path)
    if not path.is_file():
        raise DataError(
            f"method.editing.editor.path: {editor.path} is not there. `cream sample` draws the "
            "completions, and `cream export edits` writes them for a person to edit."
        )
    return read_edits((row.values, row.where) for row in file_rows(path))


def _editor(context: Context, spec: StageSpec, rows: dict[str, PersonsEdit]) -> Editor | ByModel:
    settings = context.plan.parts(spec.t).editing
    assert settings is not None, "planned for methods that edit"
    match settings.editor:
        case VerifierEditor():
            return by_verifier(context.verifier)
        case FileEditor():
            return by_file(rows)
        case ModelEditor():
            return ByModel(
                context.engine.sampler(str(spec.model)),
                context.encoder,
                sampling_params(context.recipe.sampling, context.encoder),
                context.checkpoints.context_length,
            )


def _table(edits: list[Edit]) -> pa.Table:
    """Sampled completions and accepted edits, those of a prompt together, sampled ones first."""
    groups: dict[str, list[Edit]] = {}
    for edit in edits:
        groups.setdefault(edit.original.prompt_id, []).append(edit)
    rows: list[tuple[Completion, dict[str, Any]]] = []
    for group in groups.values():
        rows += [(edit.original, _of_original(edit)) for edit in group]
        rows += [(edit.edited, _of_edited(edit)) for edit in group if edit.edited is not None]
    table = completions_to_table(completion for completion, _ in rows)
    types = {
        EDIT_OF: pa.string(),
        EDIT_OUTCOME: pa.string(),
        SPANS: pa.list_(pa.list_(pa.int32())),
        TOUCHED: pa.list_(pa.bool_()),
    }
    for name, kind in types.items():
        table = table.append_column(name, pa.array([told.get(name) for _, told in rows], kind))
    return table


def _of_original(edit: Edit) -> dict[str, Any]:
    told: dict[str, Any] = {EDIT_OUTCOME: edit.outcome}
    if edit.outcome == ACCEPTED:
        told |= {EDIT_OF: edit.original.completion_id, TOUCHED: list(edit.replaced)}
    return told


def _of_edited(edit: Edit) -> dict[str, Any]:
    spans = [list(span) for span in edit.spans]
    return {EDIT_OF: edit.original.completion_id, SPANS: spans, TOUCHED: list(edit.new)}


def summarise_edits(stage: Stage, editor: str) -> EditSummary:
    """Counts of a stage of edits."""
    names = [EDIT_OUTCOME, TOUCHED]
    outcomes, replaced, new, originals, edited, written = [], 0, 0, 0, 0, 0
    for table in stage.tables(names):
        written += read_metadata(table)["tokens"]
        for outcome, touched in zip(*(table[n].to_pylist() for n in names), strict=True):
            outcomes += [] if outcome is None else [outcome]
            if touched is not None and outcome is None:
                new, edited = new + sum(touched), edited + len(touched)
            elif touched is not None:
                replaced, originals = replaced + sum(touched), originals + len(touched)
    return EditSummary(
        editor=editor,
        tally=tally(outcomes),
        replaced_tokens=replaced,
        new_tokens=new,
        original_tokens=originals,
        edited_tokens=edited,
        written_tokens=written,
    )


def outcome_in_words(found: EditSummary) -> str:
    """One line about the edits of an iteration."""
    parts = found.tally.parts
    left_out = counts(parts, without=[ACCEPTED])
    words = f"{parts[ACCEPTED]} of {found.tally.total} completions edited"
    words += f" ({left_out})" if left_out else ""
    if found.original_tokens:
        shares = (100 * found.replaced_tokens / found.original_tokens,)
        words += f", {shares[0]:.0f} % of their tokens replaced"
    return words
