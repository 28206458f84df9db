import pytest

from cream.algorithms.judging import Unscored, judge_prompt, parse_score

OUTPUTS = [
    ("Relevant and complete, though wordy.\nScore: 4", 4.0),
    ("Score: 0", 0.0),
    ("score: 5.", 5.0),
    ("**Score:** 4", 4.0),
    ("**Score: 3**", 3.0),
    ("Score: **3**", 3.0),
    ("Score: `2`", 2.0),
    ("Final score = 3.5", 3.5),
    ("Score: 4.5/5", 4.5),
    ("Score: 4,5", 4.5),
    ("Score: 4 out of 5", 4.0),
    ("Score: 4 / 5 because it omits one case.", 4.0),
    ("My rating is 2.", 2.0),
    ("Total points: 3", 3.0),
    ("The score is 4.\n\nScore: 4", 4.0),
    ("Score: 4/5\nI stand by Score: 4.0", 4.0),
    ("On a scale where the score: 0 to 5 is possible, I say\nScore: 2", 2.0),
    ("It lists 3 of the 7 planets and 2 moons.\nScore: 1", 1.0),
    ("Score: 3\nScore: 4", Unscored.CONFLICTING),
    ("I would give score: 2, no, score: 5", Unscored.CONFLICTING),
    ("Score: 7", Unscored.OUT_OF_RANGE),
    ("Score: 1,000", Unscored.NO_SCORE),  # a number is read whole or not at all
    ("Score: 4.5.1", Unscored.NO_SCORE),
    ("Score: 3 1/2", Unscored.NO_SCORE),
    ("Score: 3½", Unscored.NO_SCORE),
    ("Score: 3e5", Unscored.NO_SCORE),
    ("Score: 3,5", 3.5),
    ("Score: -1", Unscored.OUT_OF_RANGE),
    ("Score: 100", Unscored.OUT_OF_RANGE),
    ("Score: 8/10", Unscored.OTHER_SCALE),
    ("Score: 4 out of 10", Unscored.OTHER_SCALE),
    ("Score: N", Unscored.NO_SCORE),
    ("Score: four", Unscored.NO_SCORE),
    ("Score:", Unscored.NO_SCORE),
    ("4", Unscored.NO_SCORE),
    ("I'm sorry, but I can't help with rating this response.", Unscored.NO_SCORE),
    ("The response deserves 4 stars.", Unscored.NO_SCORE),
    ("It has an underscore: 4", Unscored.NO_SCORE),
    ("", Unscored.NO_SCORE),
]


@pytest.mark.parametrize(("text", "expected"), OUTPUTS)
def test_scores_are_read_as_people_would(text, expected):
    assert parse_score(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The response is relevant and", Unscored.TRUNCATED),
        ("Good. Score: 4", Unscored.TRUNCATED),
        ("Good. Score: 4.", Unscored.TRUNCATED),
        ("Good. Score: 4/", 4.0),
        ("Good. Score: 4\nIt also", 4.0),
    ],
)
def test_a_cut_off_text_counts_only_with_a_finished_score(text, expected):
    """``Score: 4`` at the cut may have been going to be 4.5."""
    assert parse_score(text, truncated=True) == expected


def test_prompt_and_response_are_inserted_verbatim():
    text = judge_prompt("What is {x}? {response}", "It is {y} {prompt} \\1")
    assert "<message>\nWhat is {x}? {response}\n</message>" in text
    assert "<response>\nIt is {y} {prompt} \\1\n</response>" in text
    assert text.endswith("Score: N")


def test_the_instruction_itself_holds_no_score():
    """A judge that repeats its instruction has not answered."""
    assert parse_score(judge_prompt("Hi", "Hello")) is Unscored.NO_SCORE
