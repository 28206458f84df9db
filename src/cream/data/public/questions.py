r"""From what a public dataset holds to a question with its answer. Pure.

A multiple-choice question is written as its text and one line per option, ``A. ...``; the answer is
a letter. ARC labels some options 1 to 4: they become A to D by position. How the paper wrote its
options is not stated; ours is the form in which its answers (``Answer: B``) make sense.

Test questions end with the instruction of the paper's code (`EVALUATION_INSTRUCTION`); prompts that
are trained on do not (its README samples with ``--sysprompt none``).

Of OpenAssistant's message trees the paper keeps "about 3.4K human-annotated examples"; by which
rule is not stated. Ours is that of Self-Rewarding Language Models (arXiv 2401.10020), which it
builds on: the first turn of English conversations, answered by the reply that people ranked first
(``rank`` 0).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cream.data.files import Row
from cream.data.verifiers import CHOICE_LETTERS
from cream.errors import DataError

EVALUATION_INSTRUCTION = (
    "\nAnswer the question by thinking step by step. "
    "At the end, output the final answer, starting with 'Answer:'."
)
"""What the reference code puts after every test question (``prompts.py``, ``get_sys_prompt``)."""


class Dropped(StrEnum):
    """Why a row becomes no question."""

    NO_QUESTION = "no_question"
    """The question is empty."""
    NO_ANSWER = "no_answer"
    """No answer, or one that names none of the options."""
    EMPTY_OPTION = "empty_option"
    """An option without text, or fewer than two options."""


@dataclass(frozen=True, slots=True)
class Question:
    """A question as the model reads it, without instruction."""

    text: str
    answer: str
    """A letter, or a number as text."""
    own_id: str | None
    """The dataset's own id, where it has one."""


ReadQuestion = Callable[[Row], Question | Dropped]


def evaluation_prompt(question: str) -> str:
    """The question with the instruction of the paper's evaluation."""
    return question + EVALUATION_INSTRUCTION


def labelled_choices(text_column: str) -> ReadQuestion:
    """Reader of ARC and OpenBookQA rows.

    Columns: ``id``, the question in `text_column`, ``choices`` with the lists ``text`` and
    ``label``, and ``answerKey``, one of the labels.
    """

    def read(row: Row) -> Question | Dropped:
        choices = _value(row, "choices")
        if not isinstance(choices, Mapping) or not {"text", "label"} <= choices.keys():
            raise DataError(f"{row.where}: `choices` must hold the lists `text` and `label`")
        texts = [str(text) for text in choices["text"]]
        labels = [str(label) for label in choices["label"]]
        if len(texts) != len(labels):
            raise DataError(f"{row.where}: `choices` has {len(texts)} texts, {len(labels)} labels")
        key = str(_value(row, "answerKey"))
        place = labels.index(key) if key in labels else None
        return _multiple_choice(_text(row, text_column), texts, place, row.values.get("id"))

    return read


def siqa(row: Row) -> Question | Dropped:
    """Read a row of Social IQa: ``context``, ``question``, three answers, ``label`` 1 to 3."""
    context, question = _text(row, "context"), _text(row, "question")
    options = [_text(row, f"answer{letter}") for letter in "ABC"]
    label = str(_value(row, "label")).strip()
    place = int(label) - 1 if label in ("1", "2", "3") else None
    return _multiple_choice(f"{context} {question}".strip(), options, place, None)


def gsm8k(row: Row) -> Question | Dropped:
    """Read a row of GSM8K: ``question``, and ``answer``, a solution that ends in ``#### 18``."""
    question = _text(row, "question")
    _, mark, result = _text(row, "answer").rpartition("####")
    if not question:
        return Dropped.NO_QUESTION
    if not mark or not result.strip():
        return Dropped.NO_ANSWER
    return Question(question, result.strip().replace(",", ""), None)


def _multiple_choice(
    text: str, options: Sequence[str], place: int | None, own_id: Any
) -> Question | Dropped:
    if not text:
        return Dropped.NO_QUESTION
    if len(options) < 2 or not all(option.strip() for option in options):
        return Dropped.EMPTY_OPTION
    if place is None:
        return Dropped.NO_ANSWER
    letters = CHOICE_LETTERS[: len(options)]
    lines = [f"{letter}. {o.strip()}" for letter, o in zip(letters, options, strict=True)]
    return Question("\n".join([text, *lines]), letters[place], str(own_id) if own_id else None)


def _text(row: Row, name: str) -> str:
    value = _value(row, name)
    if not isinstance(value, str):
        raise DataError(
            f"{row.where}: column `{name}` must be text, it holds {type(value).__name__}"
        )
    return value.strip()


def _value(row: Row, name: str) -> Any:
    if name not in row.values:
        raise DataError(
            f"{row.where} has no column `{name}`: this is not the schema of the public dataset. It "
            f"has: {', '.join(f'`{column}`' for column in row.values)}"
        )
    return row.values[name]


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
