"""Scores are joined to completions by id; equal texts of a prompt are scored once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from cream.engines.texts import Text, TextScore
from cream.stages.score import ScoreRow, score_texts, tally_scores
from cream.types import Completion, FinishReason, Message, Prompt, Tally

PROMPTS = {name: Prompt(name, (Message("user", f"ask {name}"),)) for name in "pq"}


def completion(prompt_id: str, k: int, text: str) -> Completion:
    return Completion(prompt_id, f"{prompt_id}-{k}", (k, 2), text, FinishReason.STOP, k)


COMPLETIONS = [
    completion("p", 0, "yes"),
    completion("p", 1, "no"),
    completion("p", 2, "yes"),
    completion("q", 0, "yes"),
]


class Scripted:
    """Answers from a table, last text first."""

    def __init__(self, scores: Sequence[TextScore]) -> None:
        self.scores = scores
        self.asked: list[Text] = []

    def score(self, texts: Sequence[Text]) -> Iterator[TextScore]:
        self.asked = list(texts)
        return reversed(self.scores)


SCORES = [
    TextScore("p-0", 4.5, None, 2),
    TextScore("p-1", None, "no_score", 0),
    TextScore("q-0", 0.0, None, 1),
]


def test_rows_follow_the_completions_and_equal_texts_of_a_prompt_share_a_score():
    scorer = Scripted(SCORES)

    rows = score_texts(COMPLETIONS, PROMPTS, scorer)

    assert rows == [
        ScoreRow("p", "p-0", 4.5, None, 2),
        ScoreRow("p", "p-1", None, "no_score", 0),
        ScoreRow("p", "p-2", 4.5, None, 2),
        ScoreRow("q", "q-0", 0.0, None, 1),
    ]
    assert scorer.asked == [
        Text("p", "p-0", PROMPTS["p"].messages, "yes"),
        Text("p", "p-1", PROMPTS["p"].messages, "no"),
        Text("q", "q-0", PROMPTS["q"].messages, "yes"),
    ]


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (SCORES[:2], "left out or made up 1 texts, q-0"),
        ([*SCORES, TextScore("p-2", 1.0, None, 1)], "left out or made up 1 texts, p-2"),
        ([*SCORES, SCORES[0]], "answered p-0 twice"),
    ],
)
def test_a_scorer_that_leaves_out_makes_up_or_repeats_texts_is_refused(scores, message):
    with pytest.raises(ValueError, match=message):
        score_texts(COMPLETIONS, PROMPTS, Scripted(scores))


def test_the_tally_counts_every_completion_by_what_became_of_it():
    tally = tally_scores(["too_long", None, "no_score", None, "too_long"])

    assert tally == Tally(5, {"scored": 2, "no_score": 1, "too_long": 2})
    assert tally_scores([]).parts == {"scored": 0}
