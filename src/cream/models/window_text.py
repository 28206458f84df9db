"""Query and candidates as text to the tokens of a window.

What a trained reranker reads and what an untrained model is asked differ in two places. Trained:
a candidate is closed by the end token, whose state the point head reads, and identifiers stand at
the end for the list head. Untrained: a candidate is closed by a question, after which the model
says Yes or No, and the tail asks for the letter of the best one: both views are its own logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from cream.errors import ModelError
from cream.models.templates import Template
from cream.models.windows import Block, Window
from cream.recipe.reranking import IDENTIFIERS, WindowConfig
from cream.types import Message

YES_NO = ("Yes", "No")
"""What an untrained model may say of one candidate; told apart by their first tokens."""
_MARK = "<<<candidates>>>"
_QUESTION = "\nDoes this candidate answer the query, {} or {}? Answer: ".format(*YES_NO)
_LABEL = "\nCandidate "
_TAIL = "\n\nQuery: {query}\n\n{ask}"
_ASK = "Reply with the letter of the best candidate only."


@dataclass(frozen=True, slots=True)
class EncodedQuery:
    """What stands around the candidates of a query."""

    prefix: tuple[int, ...]
    tail: tuple[int, ...]


class WindowEncoder:
    """Writes windows in the tokens of one model.

    Args:
        tokenizer: The model's.
        template: Its chat template.
        config: What the model is told first, and where candidates are cut.
        trained: Whether heads read the window, or its own answers are.

    Raises:
        ModelError: A letter is no token of its own, or there is no end token.
    """

    def __init__(
        self,
        tokenizer: Any,
        template: str,
        config: WindowConfig,
        *,
        trained: bool,
    ) -> None:
        self.tokenizer = tokenizer
        self._template = Template(tokenizer, template)
        self._instruction, self._most = config.instruction, config.max_candidate_tokens
        self._trained = trained
        self.identifiers = tuple(self._letter(letter) for letter in IDENTIFIERS)
        if trained and tokenizer.eos_token_id is None:
            raise ModelError("the tokenizer has no end token to close a candidate with")
        closing = (tokenizer.eos_token_id,) if trained else self._ids(_QUESTION)
        self._closing: tuple[int, ...] = closing
        self._label = () if trained else self._ids(_LABEL)
        self.query = lru_cache(1024)(self._query)

    @property
    def reach(self) -> int:
        """Positions kept for a candidate."""
        return self._most + len(self._closing) + len(self._label) + 1

    @cached_property
    def yes_no(self) -> tuple[int, int]:
        """First tokens of the two answers.

        Raises:
            ModelError: They are one token.
        """
        yes, no = (self._ids(word)[0] for word in YES_NO)
        if yes == no:
            raise ModelError(f"the tokenizer begins {' and '.join(YES_NO)} with the same token")
        return yes, no

    def candidate(self, text: str) -> tuple[tuple[int, ...], bool]:
        """Tokens of a candidate, and whether it was cut."""
        ids = self._ids(text)
        return ids[: self._most], len(ids) > self._most

    def window(
        self, query: EncodedQuery, candidates: Sequence[tuple[int, ...]], letters: Sequence[int]
    ) -> Window:
        """A window of candidates, each named by the letter of this number."""
        names = [self.identifiers[letter] for letter in letters]
        blocks = tuple(
            Block((*ids, *self._closing, *self._label, name), len(ids) + len(self._closing) - 1)
            for ids, name in zip(candidates, names, strict=True)
        )
        readouts = tuple(names) if self._trained else ()
        return Window(query.prefix, blocks, query.tail, readouts, self.reach)

    def _query(self, text: str) -> EncodedQuery:
        """What stands around the candidates of a query.

        Raises:
            ModelError: The template refuses it.
        """
        tail = _TAIL.format(query=text, ask="" if self._trained else _ASK).rstrip()
        mark = _MARK
        while mark in text:
            mark += "#"
        whole = f"{self._instruction}\n\nQuery: {text}\n\nCandidates:\n{mark}{tail}"
        rendered = self._template.render([Message("user", whole)], generation_prompt=True)
        before, after = rendered.split(mark)
        return EncodedQuery(self._template.encode(before), self._template.encode(after))

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _letter(self, letter: str) -> int:
        ids = self._ids(letter)
        if len(ids) != 1:
            raise ModelError(
                f"the tokenizer has no token of its own for {letter!r}, which names a candidate; "
                "name another model to rerank with"
            )
        return ids[0]
