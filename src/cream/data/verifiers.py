"""Is a completion right? Binary, by extracting an answer, normalising it and comparing.

Accuracy and the oracle's reward count ``correct`` only. ``partial_credit`` is a task's own graded
score: reasoning-gym gives 0.8 to "90850" where 9085 is right, and 0.5 to "10" for 1, so a mean of
it is no accuracy. A completion in which no answer can be found is unparsed (``extracted`` is None):
never correct, never guessed.

The verifier of a prompt is named in its metadata (``verifier``), so it travels with frozen data;
`PromptVerifier` reads it there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol, final, runtime_checkable

from cream.algorithms.numbers import canonical, whole_number
from cream.data import extraction
from cream.errors import DataError, DependencyError
from cream.protocols import Verifier
from cream.types import Prompt, Verdict

CUSTOM = "custom"
"""Verifier that a user brings as an object; it reads whatever the prompt holds."""
NUMERIC = "numeric"
"""Key of a prompt's metadata, true where the data holds the answer as a number, not as text."""
CHOICE_LETTERS = "ABCDEFGHIJ"
"""Letters that a multiple-choice question may offer."""


@runtime_checkable
class _Keyed(Protocol):
    """A verifier by which a completion is right if its key is the reference's."""

    def key(self, prompt: Prompt, text: str) -> Hashable:
        """What a text answers: texts of equal keys are equally right."""
        ...


@final
class ExactMatch:
    """The whole completion equals the answer, after strip and lower case.

    An answer that is a number in the data (JSON ``42``, not ``"42"``) is compared as a number:
    ``42.0`` is right, too.
    """

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """Return a verdict, or None if the prompt has no answer."""
        if prompt.answer is None:
            return None
        extracted = extraction.whole_completion(completion)
        if extracted is None:
            return _verdict(None, False)
        return _verdict(extracted, self.key(prompt, extracted) == self.key(prompt, prompt.answer))

    def key(self, prompt: Prompt, text: str) -> Hashable:
        """What a text answers: texts of equal keys are equally right."""
        value = whole_number(text) if prompt.metadata.get(NUMERIC) else None
        return _plain(text) if value is None else value


@final
class LastNumber:
    """The last number of the completion equals the last number of the answer, exactly.

    Compared as exact fractions, so ``1,234.50`` equals ``1234.5``. An answer may be a worked
    solution that ends with its result, as in GSM8K (``... #### 18``). A number is read whole or not
    at all, see `cream.algorithms.numbers`; `Verdict.extracted` is its value in one spelling.
    """

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """Return a verdict, or None if the prompt has no answer."""
        if prompt.answer is None:
            return None
        return _number_verdict(extraction.number_value(completion), prompt.answer)

    def key(self, prompt: Prompt, text: str) -> Hashable:
        """What a text answers: texts of equal keys are equally right."""
        return extraction.number_value(text)


@final
class StatedNumber:
    """The number that the completion states as its answer equals the answer, exactly.

    For tasks whose prompt asks for ``Answer: ...``; see `cream.data.extraction.stated_number`.
    """

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """Return a verdict, or None if the prompt has no answer."""
        if prompt.answer is None:
            return None
        return _number_verdict(extraction.stated_value(completion), prompt.answer)

    def key(self, prompt: Prompt, text: str) -> Hashable:
        """What a reference answers: texts of equal keys are equally right once stated."""
        return extraction.number_value(text)


@final
class ChoiceLetter:
    """The letter chosen among the options equals the answer's letter. See `choice_letter`."""

    def __init__(self, letters: str = CHOICE_LETTERS) -> None:
        self.letters = letters

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """Return a verdict, or None if the prompt has no answer."""
        if prompt.answer is None:
            return None
        extracted = extraction.choice_letter(completion, self.letters)
        right = extracted is not None and _plain(extracted) == _plain(prompt.answer)
        return _verdict(extracted, right)


@final
class ReasoningGymVerifier:
    """The task's own scorer gives exactly 1.0, to the answer as written or in lower case.

    The answer is the whole completion, or the inside of ``answer_tag`` where the metadata names
    one. Both spellings are tried because some scorers need capitals (chess squares, letters of a
    cipher) and others compare texts: in lower case, answer and reference are both lowered. A task
    whose scorer reads capitals from its metadata (word_sorting) therefore stays case-sensitive.

    Some scorers parse formulas with sympy, which evaluates text: run tasks of symbolic integration
    on models you trust.
    """

    def __init__(self) -> None:
        from cream.data.tasks import task_scorer  # reasoning-gym is optional

        self._scorer: Callable[[str, dict[str, Any]], Callable[[str, dict[str, Any]], float]]
        self._scorer = task_scorer

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """Return a verdict, or None if the prompt has no answer or is not of reasoning-gym."""
        metadata = prompt.metadata
        if prompt.answer is None or "entry" not in metadata:
            return None
        tag = metadata.get("answer_tag")
        extracted = (
            extraction.whole_completion(completion)
            if tag is None
            else extraction.tagged(completion, tag)
        )
        if extracted is None:
            return Verdict(correct=False, partial_credit=0.0, extracted=None)
        score = self._scorer(metadata["generator"], metadata.get("config", {}))
        entry = {
            "question": prompt.messages[-1].content,
            "answer": prompt.answer,
            "metadata": metadata["entry"],
        }
        lowered = {**entry, "answer": prompt.answer.lower()}
        credit = max(score(extracted, entry), score(extracted.lower(), lowered))
        return Verdict(correct=credit == 1.0, partial_credit=credit, extracted=extracted)


@final
class MathVerify:
    r"""The mathematical expression that the completion ends with equals the answer's.

    For answers in LaTeX that are more than numbers (``\frac{\pi}{2}``, ``(1, 3)``, ``x^2 + 1``), by
    the package math-verify: the last ``\boxed{}`` or formula of the completion, compared by sympy.
    An answer without a formula of LaTeX is taken as one. What does not end in five seconds is
    wrong.

    The package parses text of the model: run it on models you trust.

    Source: github.com/huggingface/Math-Verify, version 0.9.0 (Apache-2.0).

    Raises:
        DependencyError: math-verify is not installed.
    """

    def __init__(self) -> None:
        try:
            import math_verify  # pyright: ignore[reportMissingImports]
        except ImportError as error:
            raise DependencyError(
                "the verifier `math_verify` needs math-verify; install it by `pip install "
                "'cream-align[math]'`, or take `stated_number` where answers are numbers"
            ) from error
        self._library: Any = math_verify
        self._references: dict[str, list[Any]] = {}

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """Return a verdict, or None if the prompt has no answer."""
        if prompt.answer is None:
            return None
        found = self._library.parse(completion)
        if not found:
            return _verdict(None, False)
        right = self._library.verify(self.reference(prompt.answer), found)
        return _verdict(str(found[0]), bool(right))

    def reference(self, answer: str) -> list[Any]:
        """The expressions of a reference answer; empty if it cannot be read."""
        if answer not in self._references:
            marked = any(mark in answer for mark in ("$", "\\boxed", "\\(", "\\["))
            text = answer if marked else f"${answer}$"
            self._references[answer] = self._library.parse(text)
        return self._references[answer]


@final
class PromptVerifier:
    """Checks every prompt with the verifier that its metadata names.

    Args:
        custom: What checks prompts that name the verifier ``custom``.
    """

    def __init__(self, custom: Verifier | None = None) -> None:
        self._verifiers: dict[str, Verifier] = {} if custom is None else {CUSTOM: custom}

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """Return a verdict, or None if the prompt names no verifier or has no answer.

        Raises:
            DataError: The named verifier is unknown.
        """
        verifier = self.of(prompt)
        return None if verifier is None else verifier.verify(prompt, completion)

    def of(self, prompt: Prompt) -> Verifier | None:
        """The verifier of a prompt; None if it names none or has no answer.

        Raises:
            DataError: The named verifier is unknown.
        """
        name = prompt.metadata.get("verifier")
        if name is None or prompt.answer is None:
            return None
        if name not in self._verifiers:
            self._verifiers[name] = verifier_named(name)
        return self._verifiers[name]


def verifier_named(name: str) -> Verifier:
    """Return the verifier that a recipe names.

    Raises:
        DataError: There is no such verifier.
    """
    match name:
        case "exact_match":
            return ExactMatch()
        case "last_number":
            return LastNumber()
        case "stated_number":
            return StatedNumber()
        case "choice_letter":
            return ChoiceLetter()
        case "math_verify":
            return MathVerify()
        case "reasoning_gym":
            return ReasoningGymVerifier()
        case "custom":
            raise DataError(
                "the data name the verifier `custom`, which is an object in Python; give it with "
                "cream.run(..., verifier=...)"
            )
        case _:
            raise DataError(
                f"unknown verifier {name!r}; there are exact_match, last_number, stated_number, "
                "math_verify, choice_letter and reasoning_gym"
            )


@dataclass(frozen=True, slots=True)
class ConstantAnswer:
    """What a model that always says the same would score on a task."""

    answer: str
    """The best constant."""
    accuracy: float
    """Share of the task's prompts for which it is right, in [0, 1]."""
    num_prompts: int
    """Verifiable prompts of the task."""


MAX_CANDIDATES = 100
"""Constant answers that are tried where each costs a verification of every prompt."""


def constant_baseline(prompts: Iterable[Prompt], verifier: Verifier) -> dict[str, ConstantAnswer]:
    """Find the best constant answer of every task, among the task's own reference answers.

    It stands beside accuracy in every table: always "1" is right on about 68 % of reasoning-gym's
    letter_counting. Ties go to the most frequent answer (after strip and lower case), then to the
    first in alphabetical order. Prompts that cannot be verified are left out.

    Where equal answers are all that counts (exact match, numbers), they are counted; a number
    counts as stated in the form that is asked for. Elsewhere a candidate costs a verification of
    every prompt, so only the `MAX_CANDIDATES` most frequent answers are tried: for a task with more
    distinct ones it is a lower bound.
    """
    by_task: dict[str, list[Prompt]] = defaultdict(list)
    for prompt in prompts:
        if prompt.answer is not None and verifier.verify(prompt, prompt.answer) is not None:
            by_task[prompt.task].append(prompt)
    return {task: _best_constant(members, verifier) for task, members in by_task.items()}


def _best_constant(prompts: list[Prompt], verifier: Verifier) -> ConstantAnswer:
    spellings: dict[str, str] = {}
    frequency: Counter[str] = Counter()
    for prompt in prompts:
        answer = prompt.answer or ""
        spellings.setdefault(_plain(answer), answer)
        frequency[_plain(answer)] += 1
    candidates = [
        spellings[key] for key in sorted(frequency, key=lambda key: (-frequency[key], key))
    ]
    if keyed := _keyed(prompts, verifier):
        equal = Counter(keyed.key(prompt, prompt.answer or "") for prompt in prompts)
        numbers = [equal[keyed.key(prompts[0], candidate)] for candidate in candidates]
    else:
        candidates = candidates[:MAX_CANDIDATES]
        numbers = [_num_right(candidate, prompts, verifier) for candidate in candidates]
    right = max(numbers)
    return ConstantAnswer(candidates[numbers.index(right)], right / len(prompts), len(prompts))


def _keyed(prompts: list[Prompt], verifier: Verifier) -> _Keyed | None:
    """The rule that checks all prompts, if it is one and compares keys."""
    kinds = {(prompt.metadata.get("verifier"), prompt.metadata.get(NUMERIC)) for prompt in prompts}
    one = verifier.of(prompts[0]) if isinstance(verifier, PromptVerifier) else verifier
    return one if len(kinds) == 1 and isinstance(one, _Keyed) else None


def _num_right(candidate: str, prompts: list[Prompt], verifier: Verifier) -> int:
    verdicts = (verifier.verify(prompt, candidate) for prompt in prompts)
    return sum(verdict is not None and verdict.correct for verdict in verdicts)


def _plain(text: str) -> str:
    return text.strip().lower()


def _number_verdict(value: Fraction | None, answer: str) -> Verdict:
    """A number is extracted in its one spelling, so that votes for 18 and 18.00 are votes alike."""
    if value is None:
        return _verdict(None, False)
    return _verdict(canonical(value), value == extraction.number_value(answer))


def _verdict(extracted: str | None, correct: bool) -> Verdict:
    return Verdict(correct=correct, partial_credit=float(correct), extracted=extracted)
