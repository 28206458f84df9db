import pytest

from cream.algorithms.trajectories import segment
from cream.data import PromptVerifier
from cream.data.completion_spans import read_spans
from cream.data.trajectories import build_trajectories
from cream.recipe.trajectory import Phrases
from cream.types import Completion, FinishReason, Message, Prompt

PHRASES = Phrases()


def prompt(answer: str | None = "8", name: str = "p"):
    return Prompt(name, (Message("user", "3 + 5?"),), "sums", answer, {"verifier": "last_number"})


def drawn(*texts, cut=()):
    return [
        Completion(
            "p",
            f"p-{k}",
            (1,),
            text,
            FinishReason.LENGTH if k in cut else FinishReason.STOP,
            k,
        )
        for k, text in enumerate(texts)
    ]


def built(*texts, answer: str | None = "8", cut=(), **options):
    samples = [(prompt(answer), drawn(*texts, cut=cut))]
    rows, tally = build_trajectories(samples, PromptVerifier(), PHRASES, **options)
    return (rows[0] if rows else {}), {k: n for k, n in tally.parts.items() if n}


def solutions(row):
    text, _ = read_spans(row["completion_spans"], None, "here")
    grammar = PHRASES.grammar
    parts = segment(text, grammar)
    return [text[p.opened : p.end].strip() for p in parts if p.kind == "solve"]


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (["8", "8", "8"], ["8"]),
        (["7", "8", "8"], ["7", "8"]),
        (["8", "7", "6"], ["7", "6", "8"]),
        (["7", "8", "7"], ["7", "8"]),  # two wrong, of one answer
        (["1", "2", "8", "3", "4"], ["1", "2", "3", "8"]),
        (["no idea", "8"], ["8"]),  # wrong, and no answer to show
    ],
)
def test_rounds_are_by_difficulty_and_end_with_a_right_answer(texts, expected):
    row, counts = built(*texts)
    assert solutions(row) == expected
    assert counts == {"written": 1}


def test_a_row_is_what_a_person_reads_and_wrong_solutions_are_not_trained_on():
    row, _ = built("It is 7.", "It is 8.")
    assert row == {
        "prompt": "3 + 5?",
        "answer": "8",
        "task": "sums",
        "completion_spans": [
            {"text": "It is 7.", "train": False},
            {
                "text": "\n\nWait, let me recheck my solution.\n\n"
                "Therefore, the answer is incorrect.",
                "train": True,
            },
            {"text": "\n\nLet me try again.\n\n", "train": True},
            {"text": "It is 8.", "train": True},
            {
                "text": "\n\nWait, let me recheck my solution.\n\n"
                "Therefore, the answer is correct.",
                "train": True,
            },
        ],
    }


def test_what_cannot_be_written_is_counted():
    assert built("7", "6")[1] == {"no_right_answer": 1}
    assert built("8", answer=None)[1] == {"unverifiable": 1}
    assert built("8", cut=(0,))[1] == {"no_right_answer": 1}, "an answer that was cut off"
    assert built("8\0 is 8")[1] == {"no_right_answer": 1}, "text that no file holds"
    assert solutions(built("7\0 is 7", "8")[0]) == ["8"]
    own = f"7 {PHRASES.recheck} 8"
    assert built(own)[1] == {"no_right_answer": 1}, "an answer that is a trajectory already"


def test_checks_of_a_task_are_kept_where_they_say_the_truth():
    def true(asked, solution, right):
        verdict = "correct" if right else "incorrect"
        return f"{solution} - 5 = {int(solution) - 5}. Therefore, the answer is {verdict}."

    row, _ = built("7", "8", check=true)
    assert "7 - 5 = 2. Therefore" in row["completion_spans"][1]["text"]
    assert built("8", check=lambda *_: "Who knows.")[1] == {"misread": 1}
    assert built("8", check=lambda *_: "The answer is incorrect.")[1] == {"misread": 1}
    phrase = f"{PHRASES.retry} The answer is correct."
    assert built("8", check=lambda *_: phrase)[1] == {"misread": 1}


def test_fewer_rounds_can_be_asked_for():
    row, _ = built("1", "2", "8", "3", "4", most_rounds=2)
    assert solutions(row) == ["1", "8"]
    assert solutions(built("1", "8", most_rounds=1)[0]) == ["8"]
