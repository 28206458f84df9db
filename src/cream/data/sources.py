"""Files and hub datasets turned into located prompts, checked and counted row by row.

Generated tasks do not come through here: they have no rows, see `cream.data.tasks`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any, Literal, overload

from cream.data import extraction
from cream.data.columns import ColumnUse, is_empty
from cream.data.dedup import prompt_id
from cream.data.files import Row, checked_text, file_rows, hub_rows, parse_json
from cream.data.formats import Parsed, column, parse_row
from cream.data.verifiers import CHOICE_LETTERS, NUMERIC, MathVerify
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
    masked: tuple[tuple[int, int], ...] = ()
    """See `SeedExample.masked`."""


@dataclass(frozen=True)
class Reading(Sequence[Item]):
    """The items of a source, and what of it was left."""

    name: str
    """Path or dataset."""
    items: tuple[Item, ...]
    num_unwanted: int
    """Rows left out because their label says that the completion is bad (seed data only)."""
    unused: Mapping[str, int]
    """Per column or key of turns that became nothing: rows in which it is not empty."""

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)


def read_source(source: FileSource | HubSource, role: RoleName, base_dir: Path) -> Reading:
    """Read the rows of a source for a role.

    Args:
        source: File or dataset.
        role: ``seed`` needs a completion in every row, ``test`` an answer its verifier can read.
        base_dir: What relative paths are relative to.

    Raises:
        DataError: Something about the file or a row is wrong; the row is named. Or the rows hold
            meaning that would be dropped; the columns are named, with counts.
    """
    rows: Iterator[Row]
    match source:
        case FileSource():
            rows, name = file_rows(base_dir / source.path), source.path
        case HubSource():
            rows, name = hub_rows(source, base_dir), source.dataset
    use = ColumnUse(name, source.ignore, completions_read=role == "seed")
    items: list[Item] = []
    num_unwanted = 0
    for row in islice(rows, source.limit):
        parsed = parse_row(row, source.columns, source.ignore)
        item, used = _item(row, parsed, source, role)
        use.row(row.values, used, parsed.turns, row.where)
        if parsed.wanted or role != "seed":
            items.append(item)
        else:
            num_unwanted += 1
    use.close()
    if not items:
        rest = f" but {num_unwanted} labelled as bad" if num_unwanted else ""
        raise DataError(f"{name} ({role} data) holds no rows{rest}")
    return Reading(name, tuple(items), num_unwanted, use.unused)


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


def _item(
    row: Row, parsed: Parsed, source: FileSource | HubSource, role: RoleName
) -> tuple[Item, set[str]]:
    """Return the item and the columns that it took."""
    conversation, columns = parsed.conversation, source.columns
    if role == "seed" and conversation.completion is None:
        raise DataError(
            f"{row.where} has no completion, which seed data needs: a `completion` or "
            "`chosen` column, or `messages` that end with an assistant turn. It has: "
            f"{', '.join(f'`{name}`' for name in row.values)}"
        )
    messages = conversation.messages
    if source.system_prompt is not None and messages[0].role != "system":
        messages = (Message("system", source.system_prompt), *messages)
    answer, is_number = _answer(row, columns.answer)
    if role == "test" or (answer is not None and source.verifier is not None):
        _check_answer(answer, source.verifier, row)
    metadata = _metadata(row, source)
    if is_number and source.verifier == "exact_match":  # the others compare numbers anyway
        metadata[NUMERIC] = True
    prompt = Prompt(
        prompt_id=prompt_id(messages),
        messages=messages,
        task=optional_text(row, columns.task, "task") or source.task,
        answer=answer,
        metadata=metadata,
    )
    used = {columns.answer or "answer", columns.task or "task", columns.id or "id", *parsed.used}
    if source.verifier == "reasoning_gym":
        used.add("metadata")
    if role != "seed":
        used -= parsed.completion_from
    if role != "seed":
        return Item(prompt, None, row.where), used
    return Item(prompt, conversation.completion, row.where, conversation.masked), used


_CSV_NUMBER = re.compile(r"[-+]?(?:0|[1-9]\d{0,30})(?:\.\d{1,30})?(?:[eE][-+]?\d{1,3})?")
"""What a data frame writes for a number. A leading zero makes it a code."""
_MAX_EXPONENT = 400
"""Beyond it a number written out is no text that a model would write."""


def optional_text(row: Row, mapped: str | None, default: str) -> str | None:
    """Text of a column: the mapped one (which must exist), else the default if it is there.

    Numbers become text as people write them: ``42`` and ``42.0`` are ``"42"``, ``1e3`` is
    ``"1000"``. Null, NaN, absence and empty text are None.

    Raises:
        DataError: It is no text and no finite number.
    """
    name = mapped or default
    value = column(row, mapped) if mapped is not None else row.values.get(default)
    if is_empty(value):
        return None
    if isinstance(value, str):
        return checked_text(value, row.where, name) if value.strip() else None
    if isinstance(value, bool) or not isinstance(value, (int, float, Decimal)):
        raise DataError(
            f"{row.where}: column `{name}` must be text or a number, it holds "
            f"{type(value).__name__}; write it as the text that a completion should hold"
        )
    if isinstance(value, int):
        exact: int | Decimal = value
        sane = abs(value) < 10**_MAX_EXPONENT
    else:
        exact = value if isinstance(value, Decimal) else Decimal(repr(value))
        sane = exact.is_finite() and abs(exact.adjusted()) <= _MAX_EXPONENT
    if not sane:
        raise DataError(
            f"{row.where}: column `{name}` holds an infinite number, or one of more than "
            f"{_MAX_EXPONENT} places; write what a completion should hold as text"
        )
    return _plain(exact)


def _plain(value: int | Decimal) -> str:
    """A number without exponent and without zeros that say nothing."""
    text = f"{value:f}" if isinstance(value, Decimal) else str(value)
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text in ("-0", "") else text


def _answer(row: Row, mapped: str | None) -> tuple[str | None, bool]:
    """The reference answer, and whether the file has it as a number.

    In a format that knows only text, what looks as a data frame writes numbers is one.
    """
    text = optional_text(row, mapped, "answer")
    value = row.values.get(mapped or "answer")
    if isinstance(value, str):
        return text, not row.typed and _CSV_NUMBER.fullmatch(value.strip()) is not None
    return text, text is not None


def _check_answer(answer: str | None, verifier: VerifierName | None, row: Row) -> None:
    """Refuse a reference answer that no completion could ever match."""
    if answer is None:
        raise DataError(
            f"{row.where} has no answer, which test data needs: an `answer` column, or "
            "`columns: {answer: ...}`"
        )
    of_numbers = verifier in ("last_number", "stated_number")
    if of_numbers and extraction.number_value(answer) is None:
        raise DataError(f"{row.where}: answer {answer!r:.60} has no number for `{verifier}`")
    if verifier == "math_verify" and not MathVerify().reference(answer):
        raise DataError(f"{row.where}: answer {answer!r:.60} is no expression for `{verifier}`")
    letter = answer.strip().upper()
    if verifier == "choice_letter" and (len(letter) != 1 or letter not in CHOICE_LETTERS):
        raise DataError(
            f"{row.where}: answer {answer!r:.60} is not one of the letters {CHOICE_LETTERS} that "
            "`choice_letter` compares"
        )


def _metadata(row: Row, source: FileSource | HubSource) -> dict[str, Any]:
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
        value = parse_json(value, f"{row.where}: column `metadata`", "valid JSON")
    value = _as_json(value, row)
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


def _as_json(value: Any, row: Row) -> Any:
    """What scorers expect: plain JSON, with floats."""
    try:
        text = json.dumps(value, default=float, allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{row.where}: column `metadata` is not JSON ({error}); write it as reasoning-gym does"
        ) from error
    return json.loads(checked_text(text, row.where, "metadata"))
