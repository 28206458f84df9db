"""Columns of the score matrix: exact sums, a stated noise floor, absence where nothing is known."""

from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from cream.stages.score import VerdictRow, measure_noise, score, scoring_requests, verify
from cream.testing import TableScorer
from cream.types import (
    Completion,
    FinishReason,
    Message,
    Prompt,
    ScoredGroup,
    ScoringRequest,
    Verdict,
)

PROMPT_IDS = {"p": (1, 2), "q": (3,)}


def completion(prompt_id: str, k: int, *ids: int) -> Completion:
    return Completion(prompt_id, f"{prompt_id}-{k}", ids, "text", FinishReason.STOP, seed=k)


GROUPS = [
    [completion("p", 0, 7), completion("p", 1, 7, 8, 9, 0)],
    [completion("q", 0, 5, 0)],
]
TABLE = {
    ("p", (7,)): [-0.5],
    ("p", (7, 8, 9, 0)): [-0.5, -1.0, -0.25, -2.0],
    ("q", (5, 0)): [-3.0, -0.125],
}


class Altered:
    """A scorer that answers from the table, its answers altered."""

    def __init__(self, alter) -> None:
        self.alter = alter

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoredGroup]:
        return iter(self.alter(list(TableScorer(TABLE).score(requests))))


def with_logps(prompt_id: str, *logps: list[float]):
    arrays = tuple(np.array(row, dtype=np.float32) for row in logps)
    return lambda answers: [
        ScoredGroup(prompt_id, arrays) if a.prompt_id == prompt_id else a for a in answers
    ]


def test_requests_hold_the_prompts_ids_and_the_sampled_ids():
    assert list(scoring_requests(GROUPS, PROMPT_IDS)) == [
        ScoringRequest("p", (1, 2), ((7,), (7, 8, 9, 0))),
        ScoringRequest("q", (3,), ((5, 0),)),
    ]


def test_rows_are_sums_in_the_order_of_the_completions():
    rows = score(GROUPS, PROMPT_IDS, TableScorer(TABLE))

    assert [(r.prompt_id, r.completion_id, r.logps, r.num_tokens) for r in rows] == [
        ("p", "p-0", -0.5, 1),
        ("p", "p-1", -3.75, 4),
        ("q", "q-0", -3.125, 2),
    ]


def test_the_order_in_which_a_scorer_answers_does_not_matter():
    assert score(GROUPS, PROMPT_IDS, Altered(lambda a: a[::-1])) == score(
        GROUPS, PROMPT_IDS, TableScorer(TABLE)
    )


def test_sums_are_taken_in_float64():
    """2^24 + 1 is no float32: a float32 sum would swallow the second token."""
    group = [completion("p", 0, 1, 2)]
    scorer = TableScorer({("p", (1, 2)): [-(2.0**24), -1.0]})

    assert score([group], PROMPT_IDS, scorer)[0].logps == -(2.0**24) - 1


@pytest.mark.parametrize(
    ("alter", "message"),
    [
        (lambda answers: answers[:1], "left out completions of prompt q"),
        (with_logps("p", [-0.5]), "left out completions of prompt p"),
        (with_logps("q", [-3.0]), "gave 1 log-probs .* for the 2 tokens of q-0"),
        (with_logps("q", [-3.0, -0.125, 0.0]), "gave 3 log-probs .* for the 2 tokens of q-0"),
        (with_logps("q", [-3.0, float("nan")]), r"\(sum nan\) .* q-0"),
        (with_logps("q", [-3.0, float("-inf")]), r"\(sum -inf\) .* q-0"),
    ],
)
def test_a_scorer_that_does_not_answer_what_was_asked_is_refused(alter, message: str):
    with pytest.raises(ValueError, match=message):
        score(GROUPS, PROMPT_IDS, Altered(alter))


def test_a_scorer_that_repeats_itself_exactly_has_no_noise():
    assert measure_noise(GROUPS, PROMPT_IDS, TableScorer(TABLE)) == 0.0
    assert measure_noise([], PROMPT_IDS, TableScorer(TABLE)) == 0.0


def test_noise_is_the_root_mean_square_shift_per_root_of_a_token():
    """A scorer that shifts every token by e where it is given one completion of a prompt at a time.

    A sum of T tokens then shifts by eT, per sqrt(token) e sqrt(T). For p, T is 1 and 4; q has but
    one completion and is shifted both times. So the floor is e sqrt((1 + 4 + 0) / 3).
    """
    e = 0.25

    def alter(answers):
        return [
            ScoredGroup(a.prompt_id, (a.token_logps[0] + np.float32(e),))
            if len(a.token_logps) == 1
            else a
            for a in answers
        ]

    noise = measure_noise(GROUPS, PROMPT_IDS, Altered(alter))

    assert noise == pytest.approx(e * (5 / 3) ** 0.5, rel=1e-12)


# --- verdicts ---


class Equal:
    """Right if the text is the answer; half credit for a shared first letter."""

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        if prompt.answer is None:
            return None
        near = completion[:1] == prompt.answer[:1]
        return Verdict(completion == prompt.answer, 0.5 * near, completion or None)


def test_verdicts_are_rows_and_absent_where_there_is_no_answer():
    prompts = {
        "p": Prompt("p", (Message("user", "?"),), answer="text"),
        "q": Prompt("q", (Message("user", "?"),)),
    }
    completions = [
        GROUPS[0][0],
        Completion("p", "p-9", (1,), "tea", FinishReason.STOP, 0),
        Completion("p", "p-8", (1,), "", FinishReason.STOP, 0),
        GROUPS[1][0],
    ]

    assert verify(completions, prompts, Equal()) == [
        VerdictRow("p", "p-0", 1.0, 0.5, "text"),
        VerdictRow("p", "p-9", 0.0, 0.5, "tea"),
        VerdictRow("p", "p-8", 0.0, 0.0, None),
        VerdictRow("q", "q-0", None, None, None),
    ]
