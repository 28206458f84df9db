"""Message trees of OpenAssistant turned into single-turn examples. Pure.

The paper keeps "about 3.4K human-annotated examples" of Open Assistant; by which rule is not
stated. Ours is that of Self-Rewarding Language Models (arXiv 2401.10020), which it builds on: the
first turn of English conversations, answered by the reply that people ranked first (``rank`` 0).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cream.data.files import Row
from cream.errors import DataError

COLUMNS = ("message_id", "parent_id", "text", "role", "lang", "rank", "deleted", "review_result")
"""Columns of ``OpenAssistant/oasst1`` that are read."""


@dataclass(frozen=True, slots=True)
class FirstTurn:
    """An initial prompt and its best reply."""

    message_id: str
    prompt: str
    completion: str


def first_turns(rows: Sequence[Row]) -> tuple[list[FirstTurn], dict[str, int]]:
    """Pair every accepted English initial prompt with its best reply, in the order of the rows.

    Args:
        rows: Messages, in any order.

    Returns:
        The examples, and messages by what became of them: ``kept_prompt`` and ``kept_reply`` (as
        many), ``later_turn``, ``not_english``, ``refused`` (deleted, or not passed by review),
        ``not_best`` (another reply was preferred, or nobody ranked it), ``reply_to_dropped``,
        ``prompt_without_best_reply``. They add up to the number of messages.

    Raises:
        DataError: A column is missing, or two messages have one id.
    """
    messages = _by_id(rows)
    counts: Counter[str] = Counter()
    prompts: dict[str, Mapping[str, Any]] = {}
    replies: list[Mapping[str, Any]] = []
    for message in messages.values():
        is_prompt = message["parent_id"] is None
        if not is_prompt and not _answers_initial_prompt(message, messages):
            counts["later_turn"] += 1
        elif reason := _refusal(message):
            counts[reason] += 1
        elif is_prompt:
            prompts[message["message_id"]] = message
        else:
            replies.append(message)
    best: dict[str, Mapping[str, Any]] = {}
    for reply in replies:
        if reply["parent_id"] not in prompts:
            counts["reply_to_dropped"] += 1
        elif reply["rank"] != 0 or reply["parent_id"] in best:
            counts["not_best"] += 1
        else:
            best[reply["parent_id"]] = reply
    turns = [
        FirstTurn(key, prompt["text"].strip(), best[key]["text"].strip())
        for key, prompt in prompts.items()
        if key in best
    ]
    counts["prompt_without_best_reply"] = len(prompts) - len(turns)
    counts["kept_prompt"] = counts["kept_reply"] = len(turns)
    return turns, {name: count for name, count in counts.items() if count}


def _by_id(rows: Sequence[Row]) -> dict[str, Mapping[str, Any]]:
    messages: dict[str, Mapping[str, Any]] = {}
    for row in rows:
        absent = [name for name in COLUMNS if name not in row.values]
        if absent:
            raise DataError(
                f"{row.where} has no column {', '.join(absent)}: this is not the schema of "
                "OpenAssistant/oasst1 (one message per row)"
            )
        key = row.values["message_id"]
        if key in messages:
            raise DataError(f"{row.where}: message_id {key!r} occurs twice")
        messages[key] = row.values
    return messages


def _answers_initial_prompt(
    message: Mapping[str, Any], messages: Mapping[str, Mapping[str, Any]]
) -> bool:
    parent = messages.get(message["parent_id"])
    return parent is not None and parent["parent_id"] is None


def _refusal(message: Mapping[str, Any]) -> str | None:
    if message["lang"] != "en":
        return "not_english"
    if message["deleted"] or message["review_result"] is False or not message["text"].strip():
        return "refused"
    return None
