"""Our answer extraction beside that of the paper's code, on outputs as models write them.

Each row: what the model wrote, what is read by our rule, what by theirs. Rows where both are
right come first in each table; the others say where the original goes wrong.
"""

from __future__ import annotations

import time

import pytest

from cream.data.extraction import choice_letter, stated_number
from cream.data.reference_extraction import reference_choice, reference_number
from cream.data.verifiers import StatedNumber
from cream.types import Message, Prompt

LETTERS = "ABCDEFGHIJ"

CHOICES = [
    ("Plants need light.\nAnswer: B", "B", "B"),
    ("Answer: B.", "B", "B"),
    ("answer: c", "C", "C"),
    ("", None, None),
    # from here on the original is wrong
    ("Answer: A. No, wait: water is wet.\nAnswer: C", "C", "A"),  # the correction is not read
    ("Answer: A dog", None, "A"),  # an article is no option
    ("I have no idea, just a guess.", None, "A"),
    ("It is B, not A.\nAnswer: **B**", "B", "B"),  # right, by the last letter alone
    ("Answer: **B** (option A is too cold)", "B", "A"),
    ("Answer: (D), unlike a star", "D", "A"),
    ("The answer is B because a plant needs light", "B", "A"),
    ("Answer: \\boxed{C}", "C", "C"),
    ("Answer: E", "E", None),  # some questions of ARC have five options
    ("A. no B. no C. yes D. no", "A", "D"),  # both misread a bare list; a letter must be stated
]


@pytest.mark.parametrize(("text", "ours", "theirs"), CHOICES)
def test_letters(text: str, ours: str | None, theirs: str | None):
    assert choice_letter(text, LETTERS) == ours
    assert reference_choice(text) == theirs


NUMBERS = [
    ("She sells 9 eggs at 2 each.\nAnswer: 18", "18", "18"),
    ("9 * 2 = 18\n#### 18", "18", "18"),
    ("The answer is 18 dollars.", "18", "18"),
    ("Answer: $1,234", "$1,234", "1234"),
    ("Answer: 2.50", "2.50", "2.5"),
    ("no number at all", None, None),
    # from here on the original is wrong
    ("### Step 1\n9 * 2 = 18\nAnswer: 18", "18", "1"),  # a heading is taken for the mark of GSM8K
    ("Answer: 5 + 3 = 8", "8", "5"),
    ("Answer: 1/2", "1/2", "1"),
    ("Answer: 17\nI forgot one. Answer: 18", "18", "17"),
    ("Answer: 17? No, the answer is 18", "18", "17"),
    ("**Answer:**\n\n18 apples, 3 per child", "18", "18"),
    ("He walks 5-3 miles, that is all", None, "-3"),
    ("In 2024 he had 12 of them", None, "12"),  # without a statement theirs takes the last number
    ("Answer: −4", "-4", "4"),  # a minus sign that is no hyphen
    (r"The total is \boxed{12{,}500}.", "12,500", "500"),
    (r"Answer: \boxed{2\pi}", None, "2"),  # a number is read whole or not at all
    ("Answer: 3x + 1", None, "3"),
    ("Answer: 3:45", None, "3"),
    ("Answer: 3, 5", None, "3"),
    ("Answer: 10 and 20", None, "10"),
    ("Answer: x = 5 or x = 7", None, "5"),
    (r"\boxed{x = 5}", "5", "5"),
    (r"\boxed{5} and then 7", "5", "7"),
    (r"\boxed{\text{18 dollars}} of 20", "18", "20"),
]


@pytest.mark.parametrize(("text", "ours", "theirs"), NUMBERS)
def test_numbers(text: str, ours: str | None, theirs: str | None):
    assert stated_number(text) == ours
    assert reference_number(text) == theirs


def test_the_verifier_compares_what_was_stated_and_never_guesses():
    prompt = Prompt("p", (Message("user", "?"),), answer="18")
    verify = StatedNumber().verify

    right = verify(prompt, "3 of 5. Answer: 18.0 for 3 days")
    unparsed = verify(prompt, "it is 18")

    assert right is not None
    assert (right.correct, right.extracted) == (True, "18")
    assert unparsed is not None
    assert (unparsed.correct, unparsed.extracted) == (False, None)
    assert verify(Prompt("p", (Message("user", "?"),)), "Answer: 18") is None


@pytest.mark.parametrize(
    "text",
    ["answer:" * 20_000, "#" * 100_000, "answer: " + "1" * 100_000, "answer" + " " * 100_000],
)
def test_a_collapsed_completion_takes_no_time(text: str):
    before = time.perf_counter()
    stated_number(text)

    assert time.perf_counter() - before < 5
