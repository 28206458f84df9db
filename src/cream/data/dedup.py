"""When two prompts are the same: exactly (`prompt_id`), and nearly (`question_key`)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from cream.types import Message


def prompt_id(messages: Sequence[Message]) -> str:
    """Content hash of a conversation: 16 hexadecimal digits, equal for equal messages.

    blake2b of the canonical JSON of ``[[role, content], ...]``; at a million prompts the chance of
    any collision is about 3e-8.
    """
    canonical = json.dumps(
        [[message.role, message.content] for message in messages],
        ensure_ascii=False,
        separators=(",", ":"),
    )
    return hashlib.blake2b(canonical.encode(), digest_size=8).hexdigest()


def question_key(messages: Sequence[Message]) -> str:
    """What leakage compares: the turns without system messages, case and white space.

    Two prompts that differ only in their system prompt, in capitals or in spacing ask the same.
    """
    turns = [
        [message.role, " ".join(message.content.casefold().split())]
        for message in messages
        if message.role != "system"
    ]
    return json.dumps(turns, ensure_ascii=False)
