"""What of a row is used, what is only named, and what must not be dropped.

Every column and every key of a turn falls into one of three kinds. *Used*: the reader turned it
into a message, a completion, an answer, a name. *Carries meaning*: without it the row would say
something else (a thumbs-down, a tool, an image, the passage a question is about); the file is
refused unless the recipe says ``ignore``. *Named*: everything else, counted and told once per
source. Empty values (null, NaN, empty text, list or object) carry nothing and are not counted.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, final

from cream.errors import DataError

_TOOLS = "tools, or calls of tools"
_THOUGHT = "what was thought before the answer"
_MEDIA = "pictures, sound or files"
_PROMPT = "a part of the prompt"
_JUDGEMENT = "how good the completion is, or how much it counts"
_SPEAKER = "who speaks"

_NAMES = {
    _TOOLS: (
        "tools tool_calls tool_call_id tool_choice tool_responses available_tools "
        "functions function function_call function_calls"
    ),
    _THOUGHT: (
        "reasoning_content reasoning thinking thought thoughts chain_of_thought cot rationale "
        "scratchpad"
    ),
    _MEDIA: (
        "image images image_url audio audios video videos file files attachment attachments media"
    ),
    _PROMPT: (
        "input inputs context contexts passage passages document documents article choices options "
        "history system system_prompt system_message knowledge examples hint hints constraints"
    ),
    _JUDGEMENT: (
        "label labels kto_tag weight weights loss_weight sample_weight loss loss_mask mask train "
        "train_on_turn trainable score scores rating ratings reward rewards quality is_correct "
        "correct preference preferred winner desirable is_good good thumbs_up feedback is_chosen "
        "accepted"
    ),
    _SPEAKER: "name speaker",
}
CARRIERS: Mapping[str, str] = {
    name: meaning for meaning, names in _NAMES.items() for name in names.split()
}
"""Known carriers of meaning, in lower case with underscores, and what they carry."""
_WEIGHTS = frozenset(
    [
        "weight",
        "weights",
        "loss_weight",
        "sample_weight",
        "loss",
        "train",
        "train_on_turn",
        "trainable",
    ]
)
"""Of these a 1 (or true) says what is done anyway."""
_OF_THE_COMPLETION = frozenset({_THOUGHT, _JUDGEMENT})
_COLUMN_IS_NAMED_ONLY = frozenset({"name", "speaker", "function", "file", "files", "examples"})
"""These carry meaning in a turn; a column of this name mostly says where a row comes from."""


def carries(name: str) -> str | None:
    """What a column or key of this name is known to carry, or None."""
    return CARRIERS.get(name.strip().lower().replace("-", "_").replace(" ", "_"))


def is_empty(value: Any) -> bool:
    """Whether a value says nothing: null, NaN, or empty text, list or object."""
    if value is None or (isinstance(value, (str, list, tuple, dict)) and not value):
        return True
    if isinstance(value, Decimal):
        return value.is_nan()
    return isinstance(value, float) and math.isnan(value)


@final
class ColumnUse:
    """Counts, over the rows of one source, what was not used of them.

    Args:
        source: Name of the file or dataset, for messages.
        ignore: Names that the recipe says to leave out; they are counted as named.
        completions_read: Whether completions are read, so that what is said about them counts.
    """

    def __init__(self, source: str, ignore: Iterable[str] = (), *, completions_read: bool) -> None:
        self.ignore = frozenset(ignore)
        self._source = source
        self._completions_read = completions_read
        self._met: set[str] = set()
        self._rows = 0
        self._named: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    @property
    def unused(self) -> dict[str, int]:
        """Per column (or ``key of turns``) that was not used: rows in which it was not empty."""
        return dict(sorted(self._named.items()))

    def row(
        self,
        values: Mapping[str, Any],
        used: Iterable[str],
        turns: Iterable[Mapping[str, Any]],
        where: str,
    ) -> None:
        """Count one row.

        Args:
            values: Its columns.
            used: Columns that became something.
            turns: Its turns as they stand in the file, of which role and text were used.
            where: Its place.
        """
        self._rows += 1
        self._met |= set(values)
        left = {name: value for name, value in values.items() if name not in set(used)}
        for name, value in left.items():
            meaning = None if name.strip().lower() in _COLUMN_IS_NAMED_ONLY else carries(name)
            if meaning in _OF_THE_COMPLETION and not self._completions_read:
                meaning = None
            self._count(name, name, value, meaning, where)
        found: dict[str, Any] = {}
        for turn in turns:
            own = ("from", "value") if turn.get("from") is not None else ("role", "content")
            self._met |= set(turn)
            found |= {k: v for k, v in turn.items() if k not in own and not _says_nothing(k, v)}
        for key, value in found.items():
            meaning = carries(key)
            if meaning == _JUDGEMENT and not self._completions_read:
                meaning = None
            self._count(key, f"{key} of turns", value, meaning, where)

    def close(self) -> None:
        """End the source.

        Raises:
            DataError: Meaning would be dropped, or ``ignore`` names what no row has.
        """
        if self._refused:
            parts = "; ".join(
                f"`{shown}` ({count} of {self._rows} rows, first at {self._first[shown]}): "
                f"{carries(shown.removesuffix(' of turns'))}"
                for shown, count in self._refused.items()
            )
            names = ", ".join(sorted({s.removesuffix(" of turns") for s in self._refused}))
            raise DataError(
                f"{self._source} holds what Cream would have to drop: {parts}. Put it into the "
                f"messages, take it out of the file, or say `ignore: [{names}]` in this source"
            )
        absent = sorted(self.ignore - self._met)
        if absent:
            raise DataError(
                f"{self._source}: `ignore` names {', '.join(f'`{n}`' for n in absent)}, which no "
                "row has; correct the name or take it out"
            )

    def _count(self, name: str, shown: str, value: Any, meaning: str | None, where: str) -> None:
        if _says_nothing(name, value):
            return
        if meaning is None or name in self.ignore:
            self._named[shown] += 1
        else:
            self._refused[shown] += 1
            self._first.setdefault(shown, where)


def _says_nothing(name: str, value: Any) -> bool:
    return is_empty(value) or (name.strip().lower() in _WEIGHTS and value == 1)
