r"""A chat template in force: what it writes, and the token ids of that.

Two things are made sure of for every conversation. *What was said is in the text*: a template
without a branch for system turns drops them without a word, others drop earlier turns or parts of
them; it is refused, naming what was lost. *What was said stays text*: a user who writes
``<|im_end|>`` has written ten characters, not ended a turn, so special tokens that stand in a
conversation are encoded as the characters they are spelled with. Text without them is encoded as
ever.
"""

from __future__ import annotations

import gc
import os
import re
import resource
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, final

from transformers import PreTrainedTokenizerBase as Tokenizer

from cream.errors import ModelError
from cream.types import Message

PROBE = "cream-probe"
"""What is said when a template is examined."""
MAX_TEMPLATE_CHARACTERS = 1_000_000
"""The longest templates in use have some 20,000."""
MAX_WRITTEN = 1_000_000
"""Characters that a template may write beside what was said (eight times: it may say it again)."""
MAX_SECONDS = 2.0
"""Of processor time that a template may take for one conversation. Those in use take a millisecond;
the clock is that of the whole process, so what else it does meanwhile must fit in too."""
MAX_BYTES = 1 << 29
"""Of memory that the process may take beside what it has while a template writes."""
STATM = "/proc/self/statm"
"""Sizes of this process in pages, the address space first (Linux)."""
_HAS_STATM = os.path.isfile(STATM)  # asked once: every conversation comes past here
MAX_NESTED = 50
"""Signs and brackets in a row in one expression: Python's parser takes seconds over 200."""
_BEGIN, _END = re.compile(r"\{[{%]"), re.compile(r"[%}]\}")
_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"")
_NESTED = re.compile(rf"(?:[-+~(\[{{]\s*|not\s+){{{MAX_NESTED + 1}}}")
_OPEN, _CLOSE, _FIRST = "\uf8f0", "\uf8f1", 0xE000
"""A special token that was said is kept as these private characters while a template is applied."""
_PLACEHOLDER = re.compile(f"{_OPEN}(.){_CLOSE}")


@contextmanager
def limited(seconds: float, size: int) -> Iterator[None]:
    """Let what runs inside take so much processor time and memory, where the system can say so.

    A chat template is a stranger's program: its loops may not end, and one product of a text and a
    number may fill the memory. In another thread than the first nothing is limited.

    The garbage of the process is not collected inside: looking through the records of a large run
    takes more than the limit, and is not the template's doing.

    Args:
        seconds: Of this process.
        size: Bytes of address space beside what the process has.

    Raises:
        TimeoutError: It took longer.
        MemoryError: It wanted more.
    """
    if threading.current_thread() is not threading.main_thread() or not _HAS_STATM:
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise TimeoutError(f"it takes more than {seconds:g} s")

    collecting = gc.isenabled()
    gc.disable()
    before = signal.signal(signal.SIGVTALRM, stop)
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open(STATM, "rb", buffering=0) as sizes:
        room = int(sizes.read().split()[0]) * resource.getpagesize() + size
    if soft == resource.RLIM_INFINITY or room < soft:
        resource.setrlimit(resource.RLIMIT_AS, (room, hard))
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        signal.signal(signal.SIGVTALRM, before)
        if collecting:
            gc.enable()


@final
class Template:
    """One Jinja template with the tokenizer that it writes for.

    Attributes:
        tokenizer: The tokenizer given.
        text: The Jinja text.
        setting: Name of the recipe's setting that replaces the template, for messages.
    """

    def __init__(
        self, tokenizer: Tokenizer, text: str, setting: str = "model.chat_template"
    ) -> None:
        """Take a template.

        Raises:
            ModelError: It is larger than any template.
        """
        if len(text) > MAX_TEMPLATE_CHARACTERS:
            raise ModelError(
                f"the chat template has {len(text)} characters; give another {setting}"
            )
        self.tokenizer, self.text, self.setting = tokenizer, text, setting
        self._too_deep = any(_NESTED.search(_LITERAL.sub("", tag)) for tag in _tags(text))
        self._keeps: set[tuple[str, ...]] = set()  # orders of roles found whole
        added = tokenizer.added_tokens_decoder
        self._special_ids = {number for number, token in added.items() if token.special}
        names = {str(added[number].content) for number in self._special_ids}
        self._special = sorted(names | {*tokenizer.all_special_tokens}, key=len, reverse=True)
        pattern = "|".join(map(re.escape, filter(None, self._special)))
        self._is_special = re.compile(f"({pattern})") if pattern else None

    def render(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        """What the template writes; special tokens that were said stand in it as placeholders.

        Raises:
            ModelError: The template refuses the conversation, or drops or changes a part of it.
        """
        said = [Message(message.role, self.protected(message.content)) for message in messages]
        text = self._apply(said, generation_prompt=generation_prompt)
        roles = tuple(message.role for message in messages)
        if roles not in self._keeps:
            marks = [Message(role, f"{PROBE}-{i}-") for i, role in enumerate(roles)]
            self._check(marks, self._apply(marks, generation_prompt=generation_prompt), messages)
            self._keeps.add(roles)
        self._check(said, text, messages)
        return text

    def encode(self, text: str) -> tuple[int, ...]:
        """Token ids of what `render` wrote.

        Raises:
            ModelError: A special token was said, and this tokenizer cannot tell it from a real one.
        """
        # The template has written every special token that belongs there, begin token included.
        if _OPEN not in text:
            return self._ids(text)
        parts = self._is_special.split(text) if self._is_special else [text]
        apart = {place for place, part in enumerate(parts) if _OPEN in part}
        neutral = [_PLACEHOLDER.sub("x", part) for part in parts]
        if self._in_pieces(neutral, apart) != self._ids("".join(neutral)):
            raise ModelError(
                self._spelled(text)
            )  # a piece alone has other tokens than in its place
        return self._in_pieces(parts, apart)

    def special_in(self, text: str) -> list[int]:
        """Ids of the special tokens that a text spells."""
        found = self._is_special.findall(text) if self._is_special else []
        ids: Any = self.tokenizer.convert_tokens_to_ids(found)
        return list(ids)

    def protected(self, text: str) -> str:
        """A text that was said, with placeholders for the special tokens in it."""
        if self._is_special is None:
            return text
        return self._is_special.sub(
            lambda match: f"{_OPEN}{chr(_FIRST + self._special.index(match[0]))}{_CLOSE}", text
        )

    def _restored(self, text: str) -> str:
        return _PLACEHOLDER.sub(lambda match: self._special[ord(match[1]) - _FIRST], text)

    def _in_pieces(self, parts: Sequence[str], apart: set[int]) -> tuple[int, ...]:
        """Encode the parts at the places `apart` as plain text, each alone, the rest as ever."""
        ids: list[int] = []
        together = ""
        for place, part in enumerate(parts):
            if place in apart:
                ids += self._ids(together) if together else ()
                ids += self._literal_ids(part)
                together = ""
            else:
                together += part
        return (*ids, *(self._ids(together) if together else ()))

    def _literal_ids(self, text: str) -> tuple[int, ...]:
        found = self.tokenizer(
            self._restored(text), add_special_tokens=False, split_special_tokens=True
        )
        ids = tuple(found["input_ids"])
        if self._special_ids & {*ids} and _OPEN in text:
            raise ModelError(self._spelled(text))
        return ids

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _spelled(self, text: str) -> str:
        place = text.index(_OPEN)
        return (
            f"a text spells the special token {self._restored(text[place : place + 3])!r} "
            f"({self._restored(text[max(0, place - 20) : place + 23])!r}), which this tokenizer "
            "cannot tell from a real one. Take it out of the data."
        )

    def _apply(self, messages: Sequence[Message], *, generation_prompt: bool) -> str:
        turns = [{"role": message.role, "content": message.content} for message in messages]
        try:
            if self._too_deep:
                raise ValueError(f"an expression is nested more than {MAX_NESTED} deep")
            with limited(MAX_SECONDS, MAX_BYTES):
                text = str(
                    self.tokenizer.apply_chat_template(
                        turns,
                        chat_template=self.text,
                        add_generation_prompt=generation_prompt,
                        tokenize=False,
                    )
                )
            if len(text) > MAX_WRITTEN + 8 * sum(len(message.content) for message in messages):
                raise ValueError(f"it writes {len(text)} characters")
            return text
        except Exception as error:  # a template is a program: any error of Python may come of it
            roles = ", ".join(message.role for message in messages)
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise ModelError(
                f"the chat template refuses a conversation of roles ({roles}): {reason[0]}. "
                f"Change the prompts, or give another {self.setting}."
            ) from error

    def _check(self, said: Sequence[Message], text: str, messages: Sequence[Message]) -> None:
        for place, (mark, message) in enumerate(zip(said, messages, strict=True), start=1):
            if mark.content.strip() not in text:
                raise ModelError(
                    f"the chat template drops or changes a part of the {message.role} turn "
                    f"{short(message.content)} (turn {place} of {len(said)}), so the model would "
                    f"not be given what was said. Give a template that writes it as {self.setting}"
                    f"{_SYSTEM_REMEDY if message.role == 'system' else ''}."
                )


def _tags(text: str) -> Iterator[str]:
    """What stands between the marks of statements and expressions."""
    place = 0
    while (begin := _BEGIN.search(text, place)) and (end := _END.search(text, begin.end())):
        yield text[begin.end() : end.start()]
        place = end.end()


_SYSTEM_REMEDY = ", or take the system prompt out of the data"


def short(text: str) -> str:
    """The beginning of a text, for a message."""
    return repr(text if len(text) <= 40 else text[:40] + "...")
