"""Files and hub datasets turned into located prompts, checked and counted row by row.

Generated tasks do not come through here: they have no rows, see `cream.data.tasks`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from cream.data import extraction
from cream.data.files import Row, file_rows, hub_rows
from cream.data.formats import optional_text, parse_row
from cream.data.identity import prompt_id
from cream.data.verifiers import CHOICE_LETTERS
from cream.errors import DataError
from cream.recipe.data import FileSource, HubSource, VerifierName
from cream.types import Message, Prompt

RoleName = Literal["seed", "prompts", "test"]


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt, the completion if its role has one, and where it came from."""

    prompt: Prompt
    completion: str | None
    where: str


def read_source(source: FileSource | HubSource, role: RoleName, base_dir: Path) -> list[Item]:
    """Read the rows of a source for a role.

    Args:
        source: File or dataset.
        role: ``seed`` needs a completion in every row, ``test`` an answer its verifier can read.
        base_dir: What relative paths are relative to.

    Raises:
        DataError: Something about the file or a row is wrong; the row is named.
    """
    rows: Iterator[Row]
    match source:
        case FileSource():
            rows = file_rows(base_dir / source.path)
        case HubSource():
            rows = hub_rows(source, base_dir)
    items = [_item(row, source, role) for row in islice(rows, source.limit)]
    if not items:
        name = source.path if isinstance(source, FileSource) else source.dataset
        raise DataError(f"{name} ({role} data) holds no rows")
    return items


def drop_duplicates(
    items: Sequence[Item], *, duplicates: Literal["refuse", "drop"]
) -> tuple[list[Item], int]:
    """Keep the first of equal items; return them and the number dropped.

    Items are equal if prompt and completion are: a seed prompt may have several completions.

    Raises:
        DataError: There are duplicates and they are to be refused; names the first two places.
    """
    first: dict[tuple[str, str | None], Item] = {}
    repeats = 0
    for item in items:
        key = (item.prompt.prompt_id, item.completion)
        earlier = first.setdefault(key, item)
        if earlier is item:
            continue
        repeats += 1
        if duplicates == "refuse":
            raise DataError(
                f"duplicate prompt: {item.where} repeats {earlier.where}. Remove one, or set "
                "`duplicates: drop` to keep the first of each."
            )
    return list(first.values()), repeats


def _item(row: Row, source: FileSource | HubSource, role: RoleName) -> Item:
    conversation = parse_row(row, source.columns)
    if role == "seed" and conversation.completion is None:
        raise DataError(
            f"{row.where} has no completion, which seed data needs: a `completion` or "
            "`chosen` column, or `messages` that end with an assistant turn. It has: "
            f"{', '.join(f'`{name}`' for name in row.values)}"
        )
    messages = conversation.messages
    if source.system_prompt is not None and messages[0].role != "system":
        messages = (Message("system", source.system_prompt), *messages)
    answer = optional_text(row, source.columns.answer, "answer")
    if role == "test" or (answer is not None and source.verifier is not None):
        _check_answer(answer, source.verifier, row)
    prompt = Prompt(
        prompt_id=prompt_id(messages),
        messages=messages,
        task=optional_text(row, source.columns.task, "task") or source.task,
        answer=answer,
        metadata=_metadata(row, source),
    )
    return Item(prompt, conversation.completion if role == "seed" else None, row.where)


def _check_answer(answer: str | None, verifier: VerifierName | None, row: Row) -> None:
    """Refuse a reference answer that no completion could ever match."""
    if answer is None or not answer.strip():
        raise DataError(
            f"{row.where} has no answer, which test data needs: an `answer` column, or "
            "`columns: {answer: ...}`"
        )
    of_numbers = verifier in ("last_number", "stated_number")
    if of_numbers and extraction.number_value(answer) is None:
        raise DataError(f"{row.where}: answer {answer!r:.60} has no number for `{verifier}`")
    letter = answer.strip().upper()
    if verifier == "choice_letter" and (len(letter) != 1 or letter not in CHOICE_LETTERS):
        raise DataError(
            f"{row.where}: answer {answer!r:.60} is not one of the letters {CHOICE_LETTERS} that "
            "`choice_letter` compares"
        )


def _metadata(row: Row, source: FileSource | HubSource) -> Mapping[str, Any]:
    metadata: dict[str, Any] = {}
    own_id = optional_text(row, source.columns.id, "id")
    if own_id is not None:
        metadata["id"] = own_id
    if source.verifier is not None:
        metadata["verifier"] = source.verifier
    if source.verifier == "reasoning_gym":
        metadata |= _entry_metadata(row)
    return metadata


def _entry_metadata(row: Row) -> Mapping[str, Any]:
    """Metadata of a reasoning-gym entry, as that package writes it or as Cream froze it."""
    value = row.values.get("metadata")
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            value = None
    if isinstance(value, Mapping):
        if "entry" in value and "generator" in value:
            return {
                key: value[key]
                for key in ("generator", "config", "entry", "answer_tag")
                if key in value
            }
        if "source_dataset" in value:
            return {"generator": value["source_dataset"], "config": {}, "entry": dict(value)}
    raise DataError(
        f"{row.where} has no `metadata` of reasoning-gym (an object with `source_dataset`), which "
        "its verifier needs; choose another `verifier`"
    )
