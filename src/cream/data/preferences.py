"""Choices of users as files hold them: one row per pair that a user was shown.

A row is ``{"prompt": ..., "a": ..., "b": ..., "choice": "a" | "b" | "tie", "user_id": ...}``; the
prompt is a text or a list of messages, as in seed data. Ties say nothing of a taste and stay out;
the same choice of the same user counts once; a user who chose both ways keeps both. All three are
counted.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cream.data.columns import ColumnUse
from cream.data.dedup import prompt_id
from cream.data.files import Row, checked_text, file_rows
from cream.data.formats import Parsed, column, parse_row
from cream.errors import DataError
from cream.recipe.data import ColumnMapping
from cream.types import Message, Tally

SIDES = ("a", "b")
TIE = "tie"
KEPT, DUPLICATE, SAME_TEXT = "kept", "duplicate", "same_text"


@dataclass(frozen=True, slots=True)
class Response:
    """A text that answers a prompt, known by what both say."""

    prompt: tuple[Message, ...]
    text: str

    @property
    def completion_id(self) -> str:
        """Content hash: that of the prompt, and 16 hexadecimal digits of the text."""
        digest = hashlib.blake2b(self.text.encode(), digest_size=8).hexdigest()
        return f"{prompt_id(self.prompt)}-{digest}"


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """What a user chose of two answers to a prompt."""

    prompt: tuple[Message, ...]
    a: str
    b: str
    choice: Literal["a", "b"]
    user_id: str

    @property
    def winner(self) -> Response:
        """The answer chosen."""
        return Response(self.prompt, self.a if self.choice == "a" else self.b)

    @property
    def loser(self) -> Response:
        """The other one."""
        return Response(self.prompt, self.b if self.choice == "a" else self.a)


@dataclass(frozen=True, slots=True)
class ContextSet:
    """What is known of one user."""

    user_id: str
    rows: tuple[PreferenceRow, ...]


@dataclass(frozen=True, slots=True)
class Preferences:
    """The rows of a file, by user in the order of first appearance."""

    name: str
    users: tuple[ContextSet, ...]
    tally: Tally
    """Rows read, by what became of them."""
    unused: dict[str, int]
    """Per column that became nothing: rows in which it is not empty."""


@dataclass(frozen=True, slots=True)
class GivenResponse:
    """A row of a file of answers to be scored."""

    response: Response
    name: str | None
    """``completion_id`` of the row, if it has one."""


def read_preferences(path: Path) -> Preferences:
    """Read the choices of users.

    Raises:
        DataError: A row is malformed (with its place), or the file holds no choice.
    """
    use = ColumnUse(str(path), completions_read=False)
    counts: Counter[str] = Counter()
    users: dict[str, dict[tuple[str, str], PreferenceRow]] = {}
    for row in file_rows(path):
        what, found = _preference(row, use)
        chosen = (found.winner.completion_id, found.loser.completion_id)
        if what == KEPT and chosen in users.get(found.user_id, {}):
            what = DUPLICATE
        if what == KEPT:
            users.setdefault(found.user_id, {})[chosen] = found
        counts[what] += 1
    use.close()
    if not users:
        told = ", ".join(f"{n} {what}" for what, n in sorted(counts.items())) or "no rows"
        raise DataError(f"{path} holds no choice to learn from: {told}")
    kinds = (KEPT, TIE, DUPLICATE, SAME_TEXT)
    return Preferences(
        str(path),
        tuple(ContextSet(user, tuple(rows.values())) for user, rows in users.items()),
        Tally(sum(counts.values()), {kind: counts[kind] for kind in kinds}),
        use.unused,
    )


def read_context(path: Path) -> Preferences:
    """Read the choices of a single user.

    Raises:
        DataError: As `read_preferences`, or the choices are of several users.
    """
    found = read_preferences(path)
    if len(found.users) > 1:
        names = ", ".join(repr(user.user_id) for user in found.users[:3])
        raise DataError(
            f"{path} holds choices of {len(found.users)} users ({names}), and a context is of one; "
            "write one file per user"
        )
    return found


def read_responses(path: Path) -> list[GivenResponse]:
    """Read answers to be scored: rows with a prompt and a completion, as in seed data.

    Raises:
        DataError: A row is malformed, has no completion, or repeats a ``completion_id``.
    """
    use = ColumnUse(str(path), completions_read=False)
    found: list[GivenResponse] = []
    seen: dict[str, str] = {}
    for row in file_rows(path):
        parsed, named = parse_row(row, ColumnMapping()), row.values.get("completion_id")
        completion = parsed.conversation.completion
        if completion is None:
            raise DataError(f"{row.where} has no `completion`, the answer that is to be scored")
        if named is not None:
            named = _text(row, "completion_id")
            if named in seen:
                raise DataError(f"{row.where} and {seen[named]} both name {named!r}; rename one")
            seen[named] = row.where
        _used(use, row, parsed, ["completion_id"])
        found.append(GivenResponse(Response(parsed.conversation.messages, completion), named))
    use.close()
    if not found:
        raise DataError(f"{path} holds no rows")
    return found


def responses(users: Sequence[ContextSet]) -> Iterator[Response]:
    """Both answers of every choice."""
    for user in users:
        for row in user.rows:
            yield row.winner
            yield row.loser


def _preference(row: Row, use: ColumnUse) -> tuple[str, PreferenceRow]:
    """A row, and what becomes of it; the choice of what is not kept means nothing."""
    values = {name: value for name, value in row.values.items() if name not in ("a", "b")}
    parsed = parse_row(Row(values, row.where, row.typed), ColumnMapping())
    a, b, user = _text(row, "a"), _text(row, "b"), row.values.get("user_id")
    user = str(user) if isinstance(user, int) and not isinstance(user, bool) else user
    if not isinstance(user, str) or not user.strip():
        raise DataError(
            f"{row.where}: `user_id` must be a text or a whole number that names a user"
        )
    choice = column(row, "choice")
    if choice not in (*SIDES, TIE):
        raise DataError(f"{row.where}: `choice` is {choice!r}; write a, b or tie")
    _used(use, row, parsed, [*SIDES, "choice", "user_id"])
    kind = TIE if choice == TIE else SAME_TEXT if a == b else KEPT
    side = "b" if choice == "b" else "a"
    checked = checked_text(user, row.where, "user_id")
    return kind, PreferenceRow(parsed.conversation.messages, a, b, side, checked)


def _text(row: Row, name: str) -> str:
    value = column(row, name)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{row.where}: `{name}` must be a text that is not empty")
    return checked_text(value, row.where, name)


def _used(use: ColumnUse, row: Row, parsed: Parsed, names: Sequence[str]) -> None:
    use.row(row.values, [*parsed.used, *names], parsed.turns, row.where)
