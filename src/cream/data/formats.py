"""What a row means: the common shapes of instruction data, turned into messages.

Understood as they are: TRL's conversational and standard formats (``messages``; ``prompt`` with or
without ``completion``, as strings or message lists), Alpaca (``instruction``, ``input``,
``output``) and ShareGPT (``conversations`` with ``from`` and ``value``). Preference data in these
shapes (``chosen`` and ``rejected``) count by what was chosen: it is the completion, and what was
rejected is not read. A shape is recognised by
its columns, never by guessing from content; two shapes in one row are an error unless the recipe
says which column to use.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cream.data.files import Row
from cream.errors import DataError
from cream.recipe.data import ColumnMapping
from cream.types import Message

CHOSEN = "chosen"
"""Column of preference data that serves as the completion."""
SHAREGPT_ROLES = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}


@dataclass(frozen=True, slots=True)
class Conversation:
    """A prompt that ends with a user turn, and what the assistant answered, if the row has it."""

    messages: tuple[Message, ...]
    completion: str | None


def parse_row(row: Row, columns: ColumnMapping) -> Conversation:
    """Find the prompt and the completion of a row.

    Raises:
        DataError: No known column, two shapes at once, an empty or wrongly typed value, or roles
            out of order. Always with the place of the row.
    """
    match _shape(row, columns):
        case "conversation":
            return _split(_messages(row, columns.messages or "messages"), row)
        case "sharegpt":
            return _sharegpt(row, columns)
        case "alpaca":
            prompt = (Message("user", _alpaca_text(row)),)
            return Conversation(prompt, _completion(row, columns.completion, "output", prompt))
        case "chosen":
            return _split(_whole_conversation(row, "chosen"), row)
        case _:
            prompt = _prompt(row, columns.prompt or "prompt")
            return Conversation(prompt, _completion(row, columns.completion, "completion", prompt))


def optional_text(row: Row, mapped: str | None, default: str) -> str | None:
    """Text of a column: the mapped one (which must exist), else the default if it is there.

    Numbers become text (an answer ``42`` in JSON is ``"42"``); null and absence are None.
    """
    value = column(row, mapped) if mapped is not None else row.values.get(default)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise DataError(
            f"{row.where}: column `{mapped or default}` must be text or a number, it holds "
            f"{type(value).__name__}"
        )
    return str(value)


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


def _shape(row: Row, columns: ColumnMapping) -> str:
    if columns.messages is not None:
        return "conversation"
    if columns.prompt is not None:
        return "prompt"
    shapes = {
        "messages": "conversation",
        "prompt": "prompt",
        "conversations": "sharegpt",
        "instruction": "alpaca",
    }
    found = [name for name in shapes if row.values.get(name) is not None]
    if len(found) > 1:
        raise DataError(
            f"{row.where} has several columns that could be the prompt: {_names(found)}. Say which "
            "in `columns` of this source (`prompt:` or `messages:`)."
        )
    if not found and row.values.get(CHOSEN) is not None:
        return CHOSEN
    if not found:
        column(row, "prompt")  # raises unless the column is there and null
        raise DataError(f"{row.where}: column `prompt` is empty")
    return shapes[found[0]]


def _prompt(row: Row, name: str) -> tuple[Message, ...]:
    value = column(row, name)
    if not isinstance(value, list):
        return (Message("user", _text(row, name)),)
    messages = _checked(_parse_messages(value, row, name), row)
    if messages[-1].role != "user":
        raise DataError(f"{row.where}: the prompt ends with an assistant turn, not a user turn")
    return messages


def _completion(
    row: Row, mapped: str | None, default: str, prompt: tuple[Message, ...]
) -> str | None:
    """What the assistant answered, from the mapped column, the default one, or ``chosen``."""
    name = mapped or default
    if mapped is not None:
        value = column(row, mapped)
    else:
        value, chosen = row.values.get(default), row.values.get(CHOSEN)
        if value is not None and chosen is not None and default != CHOSEN:
            raise DataError(
                f"{row.where} has `{default}` and `{CHOSEN}`, which could both be the completion; "
                "say which in `columns` of this source (`completion:`)"
            )
        if value is None:
            value, name = chosen, CHOSEN
    if value is None:
        return None
    if isinstance(value, Mapping):
        value = [value]
    if isinstance(value, list):
        turns = _parse_messages(_with_roles(value, row, name), row, name)
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
    return _utf8(value, row, name)


def _split(messages: tuple[Message, ...], row: Row) -> Conversation:
    checked = _checked(messages, row)
    if checked[-1].role == "user":
        return Conversation(checked, None)
    return Conversation(checked[:-1], checked[-1].content)


def _messages(row: Row, name: str) -> tuple[Message, ...]:
    return _parse_messages(_as_list(column(row, name), row, name), row, name)


def _whole_conversation(row: Row, name: str) -> tuple[Message, ...]:
    """Preference data without a prompt column: both sides repeat it."""
    value = row.values[name]
    if not isinstance(value, list):
        raise DataError(
            f"{row.where} has no prompt: `{name}` is {type(value).__name__}, from which the prompt "
            "cannot be told apart. Give a `prompt` column, or lists of messages"
        )
    return _parse_messages(_with_roles(value, row, name), row, name)


def _sharegpt(row: Row, columns: ColumnMapping) -> Conversation:
    turns = _as_list(row.values["conversations"], row, "conversations")
    messages = _parse_messages(_renamed(turns, row, "conversations"), row, "conversations")
    conversation = _split(messages, row)
    if conversation.completion is not None:
        return conversation
    answer = _completion(row, columns.completion, CHOSEN, conversation.messages)
    return Conversation(conversation.messages, answer)


def _with_roles(turns: list[Any], row: Row, name: str) -> list[Any]:
    """Turns in ShareGPT's words (``from``, ``value``) brought into the others'."""
    is_sharegpt = any(isinstance(turn, Mapping) and "from" in turn for turn in turns)
    return _renamed(turns, row, name) if is_sharegpt else turns


def _renamed(turns: list[Any], row: Row, name: str) -> list[Any]:
    renamed = []
    for turn in turns:
        if not isinstance(turn, Mapping) or turn.get("from") not in SHAREGPT_ROLES:
            raise DataError(
                f"{row.where}: turns of `{name}` need `from` ({_names(SHAREGPT_ROLES)}) and "
                f"`value`, found {turn!r:.80}"
            )
        renamed.append({"role": SHAREGPT_ROLES[turn["from"]], "content": turn.get("value")})
    return renamed


def _alpaca_text(row: Row) -> str:
    instruction, context = _text(row, "instruction"), row.values.get("input")
    if context is not None and not isinstance(context, str):
        raise DataError(f"{row.where}: column `input` must be text")
    return f"{instruction}\n\n{context}" if context and context.strip() else instruction


def _as_list(value: Any, row: Row, name: str) -> list[Any]:
    if isinstance(value, str):  # CSV cells have no other way to hold a list
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise DataError(f"{row.where}: column `{name}` is not a JSON list of turns") from error
    if not isinstance(value, list):
        raise DataError(
            f"{row.where}: column `{name}` must be a list of turns, it holds {type(value).__name__}"
        )
    return value


def _parse_messages(turns: list[Any], row: Row, name: str) -> tuple[Message, ...]:
    messages = []
    for turn in turns:
        role = turn.get("role") if isinstance(turn, Mapping) else None
        content = turn.get("content") if isinstance(turn, Mapping) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise DataError(
                f"{row.where}: turns of `{name}` need `role` and `content` as text, found "
                f"{turn!r:.80}"
            )
        if not content.strip():
            raise DataError(f"{row.where}: a {role} turn of `{name}` is empty")
        messages.append(Message(role, _utf8(content, row, name)))
    return tuple(messages)


def _checked(messages: tuple[Message, ...], row: Row) -> tuple[Message, ...]:
    """Refuse anything but: one optional system turn, then user and assistant in turn."""
    roles = [message.role for message in messages]
    turns = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(turns))]
    if not turns or turns != expected:
        raise DataError(
            f"{row.where}: wrong order of roles ({', '.join(roles) or 'none'}); expected an "
            "optional system turn, then user and assistant alternating, starting with user"
        )
    return messages


def _text(row: Row, name: str) -> str:
    value = row.values[name]
    if not isinstance(value, str):
        raise DataError(
            f"{row.where}: column `{name}` must be text or a list of messages, it holds "
            f"{type(value).__name__}"
        )
    if not value.strip():
        raise DataError(f"{row.where}: column `{name}` is an empty prompt")
    return _utf8(value, row, name)


def _utf8(text: str, row: Row, name: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:  # JSON may hold half a surrogate pair
        raise DataError(f"{row.where}: column `{name}` holds a broken character: {error}") from None
    return text


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
