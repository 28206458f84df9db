"""What a row means: the common shapes of instruction data, turned into messages.

Understood as they are: TRL's conversational and standard formats (``messages``; ``prompt`` with or
without ``completion``, as strings or message lists), Alpaca (``instruction``, ``input``,
``output``) and ShareGPT (``conversations`` with ``from`` and ``value``). A ``system`` column
becomes the system turn and ``history`` (pairs, as LLaMA-Factory writes them, or turns) the turns
before the prompt. Preference data in these shapes (``chosen`` and ``rejected``) count by what was
chosen: it is the completion. Unpaired preference data (``label`` true or false beside a completion)
count by the label: a completion labelled false is none to imitate. A shape is recognised by its
columns, never by guessing from content; two shapes in one row are an error unless the recipe says
which column to use. What is not used is counted by `cream.data.columns`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, final

from cream.data.columns import carries, is_empty
from cream.data.completion_spans import COMPLETION_SPANS, read_spans
from cream.data.files import Row, checked_text, parse_json
from cream.errors import DataError
from cream.recipe.data import ColumnMapping
from cream.types import Message

CHOSEN = "chosen"
"""Column of preference data that serves as the completion."""
LABELS = ("label", "kto_tag")
"""Columns that say of a completion whether it is wanted: TRL's name, and LLaMA-Factory's."""
SYSTEM = ("system", "system_prompt")
"""Columns that hold a system message."""
HISTORY = "history"
"""Column of earlier turns."""
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
_SHAPES = {
    "messages": "conversation",
    "prompt": "prompt",
    "conversations": "sharegpt",
    "instruction": "alpaca",
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt that ends with a user turn, and what the assistant answered, if the row has it."""

    messages: tuple[Message, ...]
    completion: str | None
    masked: tuple[tuple[int, int], ...] = ()
    """See `SeedExample.masked`."""


@dataclass(frozen=True, slots=True)
class Parsed:
    """A conversation, and what of the row it was made from."""

    conversation: Conversation
    wanted: bool
    """False where the row's label says that its completion is not to be imitated."""
    used: frozenset[str]
    """Columns that became something."""
    completion_from: frozenset[str]
    """Of these, the columns that only give the completion or judge it."""
    turns: tuple[Mapping[str, Any], ...]
    """Turns as they stand in the file."""


def parse_row(row: Row, columns: ColumnMapping, ignore: Iterable[str] = ()) -> Parsed:
    """Find the prompt and the completion of a row.

    Args:
        row: The row.
        columns: Where the columns are, if they do not have the usual names.
        ignore: Columns and keys that the recipe says to leave out.

    Raises:
        DataError: No known column, two shapes at once, an empty or wrongly typed value, or roles
            out of order. Always with the place of the row.
    """
    return _Reader(row, columns, frozenset(ignore)).parse()


def column(row: Row, name: str) -> Any:
    """Value of a column that must exist.

    Raises:
        DataError: Naming the columns there are and the nearest one.
    """
    if name not in row.values:
        nearest = difflib.get_close_matches(name, row.values, n=1)
        hint = f"did you mean `{nearest[0]}`? " if nearest else ""
        raise DataError(
            f"{row.where} has no column `{name}`; {hint}It has: {_names(row.values)}. Set "
            "`columns` of this source."
        )
    return row.values[name]


@final
class _Reader:
    """Reads one row and remembers what of it was used."""

    def __init__(self, row: Row, columns: ColumnMapping, ignore: frozenset[str]) -> None:
        self._row, self._columns, self._ignore = row, columns, ignore
        self._used: set[str] = set()
        self._completion_from: set[str] = set()
        self._turns: list[Mapping[str, Any]] = []

    def parse(self) -> Parsed:
        conversation = self._conversation()
        messages = self._with_history(conversation.messages)
        messages = self._with_system(messages)
        completion, masked = conversation.completion, ()
        if self._holds(COMPLETION_SPANS):
            _, spans = self._list(COMPLETION_SPANS)
            self._completion_from.add(COMPLETION_SPANS)
            completion, masked = read_spans(spans, completion, self._row.where)
        conversation = Conversation(messages, completion, masked)
        wanted = self._wanted(conversation)
        return Parsed(
            conversation,
            wanted,
            frozenset(self._used),
            frozenset(self._completion_from),
            tuple(self._turns),
        )

    def _conversation(self) -> Conversation:
        columns = self._columns
        match self._shape():
            case "conversation":
                return self._split(self._parse(self._list(columns.messages or "messages")))
            case "sharegpt":
                return self._sharegpt()
            case "alpaca":
                prompt = (Message("user", self._alpaca_text()),)
                return Conversation(prompt, self._completion("output", prompt))
            case "chosen":
                return self._split(self._whole_conversation())
            case _:
                prompt = self._prompt(columns.prompt or "prompt")
                return Conversation(prompt, self._completion("completion", prompt))

    def _shape(self) -> str:
        row = self._row
        if self._columns.messages is not None:
            return "conversation"
        if self._columns.prompt is not None:
            return "prompt"
        there = [name for name in _SHAPES if row.values.get(name) is not None]
        found = [name for name in there if not is_empty(row.values[name])] or there
        if len(found) > 1:
            raise DataError(
                f"{row.where} has several columns that could be the prompt: {_names(found)}. Say "
                "which in `columns` of this source (`prompt:` or `messages:`)."
            )
        if not found and row.values.get(CHOSEN) is not None:
            return CHOSEN
        if not found:
            column(row, "prompt")  # raises unless the column is there and null
            raise DataError(f"{row.where}: column `prompt` is empty")
        return _SHAPES[found[0]]

    def _prompt(self, name: str) -> tuple[Message, ...]:
        value = column(self._row, name)
        if not isinstance(value, list):
            return (Message("user", self._text(name)),)
        self._used.add(name)
        messages = self._checked(self._parse((name, value)))
        if messages[-1].role != "user":
            raise DataError(
                f"{self._row.where}: the prompt ends with an assistant turn, not a user turn"
            )
        return messages

    def _completion(self, default: str, prompt: tuple[Message, ...]) -> str | None:
        """What the assistant answered, from the mapped column, the default one, or ``chosen``."""
        row, mapped = self._row, self._columns.completion
        name = mapped or default
        if mapped is not None:
            value = column(row, mapped)
        else:
            value, chosen = row.values.get(default), row.values.get(CHOSEN)
            if value is not None and chosen is not None and default != CHOSEN:
                raise DataError(
                    f"{row.where} has `{default}` and `{CHOSEN}`, which could both be the "
                    "completion; say which in `columns` of this source (`completion:`)"
                )
            if value is None:
                value, name = chosen, CHOSEN
        if value is None:
            return None
        self._used.add(name)
        self._completion_from.add(name)
        if isinstance(value, Mapping):
            value = [value]
        if isinstance(value, list):
            turns = self._parse((name, value))
            if turns[: len(prompt)] == prompt:  # some data sets repeat the prompt there
                turns = turns[len(prompt) :]
            if [turn.role for turn in turns] != ["assistant"]:
                raise DataError(
                    f"{row.where}: column `{name}` must hold exactly one assistant turn, after the "
                    "turns of the prompt or alone"
                )
            value = turns[0].content
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{row.where}: column `{name}` holds an empty or non-text completion")
        return checked_text(value, row.where, name)

    def _split(self, messages: tuple[Message, ...]) -> Conversation:
        checked = self._checked(messages)
        if checked[-1].role == "user":
            return Conversation(checked, None)
        return Conversation(checked[:-1], checked[-1].content)

    def _whole_conversation(self) -> tuple[Message, ...]:
        """Preference data without a prompt column: both sides repeat it."""
        value = self._row.values[CHOSEN]
        if not isinstance(value, list):
            raise DataError(
                f"{self._row.where} has no prompt: `{CHOSEN}` is {type(value).__name__}, from "
                "which the prompt cannot be told apart. Give a `prompt` column, or lists of "
                "messages"
            )
        self._used.add(CHOSEN)
        return self._parse((CHOSEN, value))

    def _sharegpt(self) -> Conversation:
        conversation = self._split(self._parse(self._list("conversations")))
        if conversation.completion is not None:
            return conversation
        answer = self._completion(CHOSEN, conversation.messages)
        return Conversation(conversation.messages, answer)

    def _alpaca_text(self) -> str:
        instruction, context = self._text("instruction"), self._row.values.get("input")
        if not is_empty(context) and not isinstance(context, str):
            raise DataError(f"{self._row.where}: column `input` must be text")
        self._used.add("input")
        if not isinstance(context, str) or not context.strip():
            return instruction
        return f"{instruction}\n\n{checked_text(context, self._row.where, 'input')}"

    def _with_history(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Put the earlier turns of a ``history`` column before a prompt of one turn."""
        if not self._holds(HISTORY):
            return messages
        name, turns = self._list(HISTORY)
        if [message.role for message in messages] != ["user"]:
            raise DataError(
                f"{self._row.where} has earlier turns in `{HISTORY}` and others before its prompt; "
                f"write one conversation, or say `ignore: [{HISTORY}]` in this source"
            )
        return self._checked((*self._parse((name, _from_pairs(turns))), *messages))

    def _with_system(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Put the text of a ``system`` column first."""
        for name in SYSTEM:
            if not self._holds(name):
                continue
            text = self._text(name)
            if messages[0].role == "system" and messages[0].content != text:
                raise DataError(
                    f"{self._row.where} has two system messages, one of them in column `{name}`; "
                    f"keep one, or say `ignore: [{name}]` in this source"
                )
            if messages[0].role != "system":
                messages = (Message("system", text), *messages)
        return messages

    def _wanted(self, conversation: Conversation) -> bool:
        """What a label says of the completion; true without a label."""
        wanted = True
        for name in LABELS:
            value = self._row.values.get(name)
            if isinstance(value, str):  # CSV has no other way to write it
                value = {"true": True, "false": False}.get(value.strip().lower(), value)
            if conversation.completion is None or not isinstance(value, bool):
                continue  # counted as unused
            if name not in self._ignore:
                self._used.add(name)
                self._completion_from.add(name)
                wanted = wanted and value
        return wanted

    def _holds(self, name: str) -> bool:
        return (
            name not in self._used
            and name not in self._ignore
            and not is_empty(self._row.values.get(name))
        )

    def _list(self, name: str) -> tuple[str, list[Any]]:
        value = column(self._row, name)
        self._used.add(name)
        if isinstance(value, str):  # CSV cells have no other way to hold a list
            what = f"{self._row.where}: column `{name}`"
            value = parse_json(value, what, "a JSON list of turns")
        if not isinstance(value, list):
            raise DataError(
                f"{self._row.where}: column `{name}` must be a list of turns, it holds "
                f"{type(value).__name__}"
            )
        return name, value

    def _parse(self, turns: tuple[str, list[Any]]) -> tuple[Message, ...]:
        name, values = turns
        return tuple(self._message(turn, name) for turn in values)

    def _message(self, turn: Any, name: str) -> Message:
        where = self._row.where
        is_mapping = isinstance(turn, Mapping)
        if is_mapping and turn.get("from") is not None:
            role, content = SHAREGPT_ROLES.get(str(turn["from"])), turn.get("value")
        else:
            role = turn.get("role") if is_mapping else None
            content = _only_text(turn.get("content")) if is_mapping else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(
                f"{where}: turns of `{name}` need `role` and `content` as text, or `from` "
                f"({_names(SHAREGPT_ROLES)}) and `value`, found {_shown(turn)}"
            )
        if not content.strip():
            raise DataError(f"{where}: a {role} turn of `{name}` is empty")
        self._turns.append(turn)
        return Message(role, checked_text(content, where, name))

    def _checked(self, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        """Refuse anything but: one optional system turn, then user and assistant in turn."""
        roles = [message.role for message in messages]
        turns = roles[1:] if roles[:1] == ["system"] else roles
        expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))]
        if not turns or turns != expected:
            shown = ", ".join(roles[:12]) + (", ..." if len(roles) > 12 else "")
            raise DataError(
                f"{self._row.where}: wrong order of roles ({shown or 'none'}); expected an "
                "optional system turn, then user and assistant alternating, starting with user"
            )
        return messages

    def _text(self, name: str) -> str:
        value, where = self._row.values[name], self._row.where
        if not isinstance(value, str):
            raise DataError(
                f"{where}: column `{name}` must be text or a list of messages, it holds "
                f"{type(value).__name__}"
            )
        if not value.strip():
            raise DataError(f"{where}: column `{name}` is an empty prompt")
        self._used.add(name)
        return checked_text(value, where, name)


def _from_pairs(turns: list[Any]) -> list[Any]:
    """Turns of ``[[user, assistant], ...]``; other lists are turns already."""
    flat: list[Any] = []
    for turn in turns:
        if isinstance(turn, list) and len(turn) == 2:
            flat += [
                {"role": "user", "content": turn[0]},
                {"role": "assistant", "content": turn[1]},
            ]
        else:
            flat.append(turn)
    return flat


def _only_text(content: Any) -> Any:
    """Text of a content that is a list with one part of text; anything else as it is."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], Mapping):
        part = content[0]
        if set(part) == {"type", "text"} and part["type"] == "text":
            return part["text"]
    return content


def _shown(turn: Any) -> str:
    """What is odd about a turn, for a message: what it carries beside text, else its beginning."""
    if isinstance(turn, Mapping):
        beside = [key for key, value in turn.items() if carries(key) and not is_empty(value)]
        if beside:
            return f"a turn with {_names(beside)}"
    return f"{turn!r:.80}"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
