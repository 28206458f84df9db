"""Rows of the public datasets become questions, or are dropped with a reason."""

from __future__ import annotations

from typing import Any

import pytest

from cream.data.files import Row
from cream.data.public import questions
from cream.data.public.questions import Dropped, Question, evaluation_prompt
from cream.errors import DataError


def row(**values: Any) -> Row:
    return Row(values, "test row 1")


def arc(labels: list[str], key: str, texts: list[str] | None = None) -> Row:
    texts = texts or [f"option {label}" for label in labels]
    return row(
        id="Mercury_1", question="Why?", choices={"text": texts, "label": labels}, answerKey=key
    )


def test_options_are_lettered_lines_and_the_answer_is_a_letter():
    found = questions.labelled_choices("question")(arc(["A", "B", "C", "D"], "C"))

    assert found == Question(
        "Why?\nA. option A\nB. option B\nC. option C\nD. option D", "C", "Mercury_1"
    )


def test_numbered_options_become_letters_by_position():
    """ARC labels some questions 1 to 4; label 2 is the second option, B."""
    found = questions.labelled_choices("question")(arc(["1", "2", "3", "4"], "2"))

    assert isinstance(found, Question)
    assert found.answer == "B"
    assert found.text.splitlines()[2] == "B. option 2"


def test_a_fifth_option_has_a_letter_too():
    found = questions.labelled_choices("question")(arc(["A", "B", "C", "D", "E"], "E"))

    assert isinstance(found, Question)
    assert found.answer == "E"


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (arc(["A", "B"], ""), Dropped.NO_ANSWER),
        (arc(["A", "B"], "C"), Dropped.NO_ANSWER),
        (arc(["A", "B"], "A", ["yes", "  "]), Dropped.EMPTY_OPTION),
        (arc(["A"], "A"), Dropped.EMPTY_OPTION),
    ],
)
def test_a_question_that_cannot_be_checked_is_dropped_with_its_reason(bad: Row, reason: Dropped):
    assert questions.labelled_choices("question")(bad) is reason


def test_siqa_joins_context_and_question_and_counts_labels_from_one():
    values = {"context": "Kai ran. ", "question": "Why?", "answerA": "x", "answerB": "y"}
    found = questions.siqa(row(**values, answerC="z", label="3\n"))

    assert found == Question("Kai ran. Why?\nA. x\nB. y\nC. z", "C", None)
    assert questions.siqa(row(**values, answerC="z", label="4")) is Dropped.NO_ANSWER


def test_gsm8k_takes_the_result_after_the_mark_without_separators():
    found = questions.gsm8k(row(question="How many?", answer="6 * 200 = 1200\n#### 1,200"))

    assert found == Question("How many?", "1200", None)
    assert questions.gsm8k(row(question="How many?", answer="no mark")) is Dropped.NO_ANSWER
    assert questions.gsm8k(row(question=" ", answer="#### 1")) is Dropped.NO_QUESTION


def test_another_schema_is_refused_by_the_column_that_is_missing():
    with pytest.raises(DataError, match=r"test row 1 has no column `choices`"):
        questions.labelled_choices("question")(row(question="Why?", answerKey="A"))
    with pytest.raises(DataError, match="2 texts, 1 labels"):
        questions.labelled_choices("question")(arc(["A"], "A", ["x", "y"]))
    with pytest.raises(DataError, match="`question` must be text, it holds int"):
        questions.gsm8k(row(question=3, answer="#### 1"))


def test_the_evaluation_prompt_is_that_of_the_reference_code():
    assert evaluation_prompt("2 + 2?") == (
        "2 + 2?\nAnswer the question by thinking step by step. At the end, output the final answer,"
        " starting with 'Answer:'."
    )
