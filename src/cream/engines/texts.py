"""What scorers that read text take and give, and why a text has no score.

Judge and reward model see text, not the policy's ids: they may have another tokenizer, and their
own template writes the conversation. What is scored here is therefore what a person reads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from cream.algorithms.judging import Unscored
from cream.types import Message


class Unscorable(StrEnum):
    """Why a text was not put to a scorer, or what it said is no number."""

    TOO_LONG = "too_long"
    """It does not fit the scorer's context."""
    SPELLS_SPECIAL = "special_token"
    """Prompt or response spells a special token of the scorer, and could so end its own turn and
    write the next one."""
    NOT_FINITE = "not_finite"
    """The reward model gave NaN or infinity."""
    NO_OPPONENT = "no_opponent"
    """No other text of its group to be compared with."""
    NOT_SAMPLED = "not_sampled"
    """The template of the scorer's model does not end a prompt and go on with this response, as a
    completion that begins with white space may not."""


@dataclass(frozen=True, slots=True)
class Text:
    """One response to one conversation, to be scored."""

    group_id: str
    """The prompt; texts of one group answer the same conversation."""
    text_id: str
    messages: tuple[Message, ...]
    response: str


@dataclass(frozen=True, slots=True)
class TextScore:
    """What a scorer said of a text: a value or a reason, never both and never neither."""

    text_id: str
    value: float | None
    reason: str | None
    """A short word, where there is no value."""
    count: int
    """How many numbers the value is the mean of; 0 where there is none."""
    details: Mapping[str, float | None] = field(default_factory=dict)
    """What else the scorer tells of the text, by name; the same names for every text."""

    def __post_init__(self) -> None:
        if (self.value is None) != (self.count == 0) or (self.value is None) == (not self.reason):
            raise ValueError(f"text {self.text_id}: a score is a value with a count, or a reason")


@runtime_checkable
class TextScorer(Protocol):
    """Gives texts a score: a judge or a reward model."""

    def score(self, texts: Sequence[Text]) -> Iterator[TextScore]:
        """Yield one score per text, in any order, joined by ``text_id``."""
        ...


def commonest(reasons: Sequence[str]) -> str:
    """The most frequent reason; of equally frequent ones, the one listed first.

    Listed are `Unscored`, then `Unscorable`.
    """
    counts = Counter(reasons)
    return max([*Unscored, *Unscorable], key=lambda reason: counts[reason])


def special_texts(tokenizer: Any) -> tuple[str, ...]:
    """How a tokenizer's special tokens are spelled."""
    added = tokenizer.added_tokens_decoder.values()
    spelled = {str(token) for token in added if token.special} | set(tokenizer.all_special_tokens)
    return tuple(sorted(spelled - {""}))


def spells_any(text: Text, special: Iterable[str]) -> bool:
    """Tell whether prompt or response spells one of these tokens."""
    contents = [*(message.content for message in text.messages), text.response]
    return any(token in content for token in special for content in contents)
