"""Verdicts on a table of realistic outputs, and the constant-answer baseline."""

import time

import pytest

from cream.data import (
    ChoiceLetter,
    ExactMatch,
    LastNumber,
    PromptVerifier,
    constant_baseline,
    prompt_id,
    verifier_named,
)
from cream.data.extraction import tagged
from cream.errors import DataError
from cream.protocols import Verifier
from cream.types import Message, Prompt


def question(answer, text="q", task="t", **metadata):
    messages = (Message("user", text),)
    return Prompt(prompt_id(messages), messages, task, answer, metadata)


@pytest.mark.parametrize(
    ("completion", "extracted", "correct"),
    [
        ("Paris", "Paris", True),
        ("  paris\n", "paris", True),
        ("Paris.", "Paris.", False),
        ("It is Paris", "It is Paris", False),
        ("", None, False),
        (" \n ", None, False),
    ],
)
def test_exact_match(completion, extracted, correct):
    verdict = ExactMatch().verify(question(" PARIS "), completion)

    assert verdict is not None
    assert (verdict.extracted, verdict.correct) == (extracted, correct)
    assert verdict.partial_credit == float(correct)


@pytest.mark.parametrize(
    ("completion", "extracted"),
    [
        ("So she pays 5 * 3.6 = $18.00.", "18"),
        ("#### 18", "18"),
        ("18 eggs", "18"),
        ("He has 1,234.50 dollars", "1234.5"),
        ("The temperature is -7", "-7"),
        ("The temperature is −7 degrees", "-7"),
        ("5-3", None),
        ("first 4, then 5, so 9", "9"),
        ("10,20", None),
        ("1,2345", None),
        ("about .5", "0.5"),
        ("3/4", "0.75"),
        ("2/3", "2/3"),
        ("it weighs 12kg", "12"),
        ("roughly 2.5e3 of them", "2500"),
        ("50%", "50"),
        ("Model M2 says nothing", None),
        ("version 10.2.3", None),
        ("eighteen", None),
        ("", None),
        ("1/0", None),
        ("9" * 5000, None),
    ],
)
def test_last_number_extracts(completion, extracted):
    verdict = LastNumber().verify(question("18"), completion)

    assert verdict is not None
    assert verdict.extracted == extracted


@pytest.mark.parametrize(
    ("answer", "completion", "correct"),
    [
        ("3 * 6 = 18\n#### 18", "The answer is 18.", True),
        ("18", "18.00", True),
        ("1234.5", "$1,234.50", True),
        ("0.75", "3/4", True),
        ("-3", "x = -3", True),
        ("3", "x = -3", False),
        ("18", "18, no, wait: 19", False),
        ("18", "180", False),
        ("18", "no idea", False),
    ],
)
def test_last_number_compares_exactly(answer, completion, correct):
    verdict = LastNumber().verify(question(answer), completion)

    assert verdict is not None
    assert verdict.correct is correct


@pytest.mark.parametrize(
    ("completion", "letter"),
    [
        ("B", "B"),
        ("b", "B"),
        ("(B)", "B"),
        ("**B**", "B"),
        ("B.", "B"),
        ("B) Mitochondria", "B"),
        ("B. Mitochondria", "B"),
        ("(b) because cells need energy", "B"),
        ("The answer is B.", "B"),
        ("The answer is (B) Mitochondria.", "B"),
        ("The correct answer is B because a cell needs energy.", "B"),
        ("The correct answer is B, since it is a dog.", "B"),
        ("The correct option is B", "B"),
        ("The answer is option B.", "B"),
        ("Answer: B", "B"),
        ("**Answer:** B", "B"),
        ("**Answer**: (B)", "B"),
        ("A cell is small.\n\nAnswer: B", "B"),
        ("I would choose B.", "B"),
        (r"Hence $\boxed{B}$.", "B"),
        (r"\boxed{\text{B}}", "B"),
        ("Option A is a dog. Option B is a cat.\nB", "B"),
        ("The answer is A. No, wait, the answer is B.", "B"),
        ("A) is wrong. The answer is B.", "B"),
        ("a dog", None),
        ("A dog", None),
        ("It is a dog", None),
        ("The answer is a dog.", None),
        ("The answer is A dog.", None),
        ("I think it is a cat", None),
        ("The answer is not clear", None),
        ("The answer isn't A", None),
        ("The answer is Cell membrane", None),
        ("Option A: dog\nOption B: cat", None),
        ("Answers vary", None),
        ("The answer is Z.", None),
        ("Blue", None),
        ("", None),
    ],
)
def test_choice_letter_extracts_stated_choices_only(completion, letter):
    verdict = ChoiceLetter().verify(question("B"), completion)

    assert verdict is not None
    assert verdict.extracted == letter
    assert verdict.correct is (letter == "B")


def test_choice_letter_outside_the_offered_letters_is_unparsed():
    verdict = ChoiceLetter("ABC").verify(question("B"), "The answer is D.")

    assert verdict is not None
    assert verdict.extracted is None


@pytest.mark.parametrize(
    "noise", ["*", " ", "1", "1,", "100,", "-", "answer is ", "answer: *", "(", "\n"]
)
@pytest.mark.parametrize("verifier", [LastNumber(), ChoiceLetter()])
def test_degenerate_completions_take_no_time(noise, verifier):
    """Linear to quadratic work takes milliseconds here, a cubic pattern takes minutes."""
    start = time.perf_counter()

    verifier.verify(question("B"), "Answer: " + noise * 3000 + "x")

    assert time.perf_counter() - start < 2.0


@pytest.mark.parametrize("verifier", [ExactMatch(), LastNumber(), ChoiceLetter(), PromptVerifier()])
def test_a_prompt_without_answer_has_no_verdict(verifier):
    assert isinstance(verifier, Verifier)
    assert verifier.verify(question(None, verifier="exact_match"), "B") is None


def test_prompt_verifier_follows_the_metadata():
    verifier = PromptVerifier()

    exact = verifier.verify(question("18", verifier="exact_match"), "It is 18")
    number = verifier.verify(question("18", verifier="last_number"), "It is 18")
    assert exact is not None
    assert number is not None
    assert (exact.correct, number.correct) == (False, True)
    assert verifier.verify(question("18"), "18") is None


def test_an_unknown_verifier_is_named():
    with pytest.raises(DataError, match="unknown verifier 'exact'"):
        verifier_named("exact")


def test_constant_baseline_finds_the_best_answer_per_task():
    """Task a: answers 1, 1, 2 -> "1" right on 2 of 3. Task b: x, y tie -> x; one has no answer."""
    prompts = [
        question("1", "a1", "a", verifier="exact_match"),
        question("1", "a2", "a", verifier="exact_match"),
        question("2", "a3", "a", verifier="exact_match"),
        question("y", "b1", "b", verifier="exact_match"),
        question("x", "b2", "b", verifier="exact_match"),
        question(None, "b3", "b", verifier="exact_match"),
    ]

    baseline = constant_baseline(prompts, PromptVerifier())

    assert baseline["a"].answer == "1"
    assert baseline["a"].accuracy == pytest.approx(2 / 3, abs=1e-12)
    assert (baseline["a"].num_prompts, baseline["b"].num_prompts) == (3, 2)
    assert (baseline["b"].answer, baseline["b"].accuracy) == ("x", 0.5)


def test_constant_baseline_uses_the_verifier_not_string_equality():
    """2.0 and 2 are one answer to LastNumber, so "2" is right on both and beats "7"."""
    prompts = [question(a, f"n{i}") for i, a in enumerate(["7", "2", "2.0"])]

    best = constant_baseline(prompts, LastNumber())["t"]

    assert best.answer in ("2", "2.0")
    assert best.accuracy == pytest.approx(2 / 3, abs=1e-12)


class CountingVerifier:
    """`ExactMatch` that counts what it is asked."""

    fingerprint = "counting"

    def __init__(self):
        self.calls = 0

    def verify(self, prompt, completion):
        self.calls += 1
        return ExactMatch().verify(prompt, completion)


@pytest.mark.parametrize(
    ("keyed", "expected"),
    [(False, [101 * 1_000, 101 * 2_000]), (True, [1_000, 2_000])],
)
def test_the_work_of_the_constant_baseline_grows_with_prompts_not_with_their_square(
    keyed, expected
):
    """All answers distinct: without keys 100 candidates, each once per prompt, and one check."""
    calls = []
    for count in (1_000, 2_000):
        counting = CountingVerifier()
        if keyed:
            counting.key = lambda prompt, text: text  # type: ignore[attr-defined]
        prompts = [Prompt(str(i), (Message("user", "q"),), "t", str(i)) for i in range(count)]
        constant_baseline(prompts, counting)
        calls.append(counting.calls)

    assert calls == expected


def test_twenty_thousand_distinct_answers_are_counted_exactly():
    """The best constant stands behind 100 others: 1.0 and 1.00 are one number, met twice."""
    answers = [*map(str, range(100, 20_098)), "1.0", "1.00"]
    prompts = [question(a, f"n{i}", verifier="last_number") for i, a in enumerate(answers)]

    best = constant_baseline(prompts, PromptVerifier())["t"]

    assert (best.answer, best.accuracy) == ("1.0", 2 / 20_000)


def test_a_constant_number_counts_as_stated():
    prompts = [question(a, f"n{i}", verifier="stated_number") for i, a in enumerate("7785")]

    best = constant_baseline(prompts, PromptVerifier())["t"]

    assert (best.answer, best.accuracy) == ("7", 0.5)


class CountingText(str):
    """Text that counts the characters `find` may have passed over."""

    looked_at = 0

    def find(self, part, start=0, end=None):  # type: ignore[override]
        place = super().find(part, start)
        CountingText.looked_at += (len(self) if place < 0 else place + len(part)) - start
        return place


def test_the_work_of_finding_a_tag_is_linear():
    for text in ("<a>" * 10_000, "</a>" * 10_000, "<a></a>" * 10_000, "x<a>" * 10_000 + "</a>"):
        CountingText.looked_at = 0
        tagged(CountingText(text), "a")

        assert CountingText.looked_at <= 3 * len(text)


@pytest.mark.parametrize(
    ("text", "inside"),
    [
        ("<a>1</a> <a>2</a>", "2"),
        ("<a>1</a> <a>2", "1"),
        ("<a>x<a>1</a>", "x<a>1"),
        ("</a><a>1</a></a>", "1"),
        ("<a>\n 1\n</a>", "1"),
        ("<a> </a>", None),
        ("<a>1", None),
        ("1", None),
    ],
)
def test_the_last_tag_counts(text, inside):
    assert tagged(text, "a") == inside
