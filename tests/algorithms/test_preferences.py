"""Which of two responses a judge preferred, read from a table of outputs."""

import pytest

from cream.algorithms.judging import (
    Preference,
    Unscored,
    comparison_prompt,
    parse_preference,
)

READ = [
    ("A is wrong.\nBetter: B", Preference.SECOND),
    ("**Better:** A", Preference.FIRST),
    ("better is response b.", Preference.SECOND),
    ("Better: Tie", Preference.TIE),
    ("Better = `A`. Better: A", Preference.FIRST),
    ("I was asked for Better: A, B or tie.\nBetter: B", Preference.SECOND),
    ("Better: A or B", Unscored.NO_SCORE),
    ("Better: A\nBetter: B", Unscored.CONFLICTING),
    ("A is better than B.", Unscored.NO_SCORE),
    ("Better: Apples", Unscored.NO_SCORE),
    ("I cannot choose.", Unscored.NO_SCORE),
    ("", Unscored.NO_SCORE),
]


@pytest.mark.parametrize(("text", "expected"), READ)
def test_a_preference_is_read_only_in_the_form_that_was_asked_for(text, expected):
    assert parse_preference(text) == expected


@pytest.mark.parametrize("text", ["I think", "Better: A", "Better: A "])
def test_an_answer_that_was_cut_off_in_its_last_word_is_truncated(text):
    assert parse_preference(text, truncated=True) == Unscored.TRUNCATED


def test_what_stands_before_the_cut_is_read():
    assert parse_preference("Better: A\nBecause it", truncated=True) == Preference.FIRST


def test_texts_are_inserted_verbatim_and_never_taken_for_a_place():
    """Each text names the place of another one."""
    asked = comparison_prompt("{first}", "{second}", "{prompt} {0} \\1")

    assert "<message>\n{first}\n</message>" in asked
    assert "Response A:\n<response>\n{second}\n</response>" in asked
    assert "Response B:\n<response>\n{prompt} {0} \\1\n</response>" in asked
