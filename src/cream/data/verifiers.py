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
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, final

from cream.data import extraction
from cream.errors import DataError
from cream.protocols import Verifier
from cream.types import Prompt, Verdict

CUSTOM = "custom"
"""Verifier that a user brings as an object; it reads whatever the prompt holds."""
CHOICE_LETTERS = "ABCDEFGHIJ"
"""Letters that a multiple-choice question may offer."""


@final
class ExactMatch:
    """The whole completion equals the answer, after strip and lower case."""

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """Return a verdict, or None if the prompt has no answer."""
        if prompt.answer is None:
            return None
        extracted = extraction.whole_completion(completion)
        return _verdict(extracted, extracted is not None and _same(extracted, prompt.answer))


@final
class LastNumber:
    """The last number of the completion equals the last number of the answer, exactly.

    Compared as exact fractions, so ``1,234.50`` equals ``1234.5``. An answer may be a worked
    solution that ends with its result, as in GSM8K (``... #### 18``).
    """

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """Return a verdict, or None if the prompt has no answer."""
        if prompt.answer is None:
            return None
        value = extraction.number_value(completion)
        extracted = extraction.last_number(completion) if value is not None else None
        return _verdict(
            extracted, value is not None and value == extraction.number_value(prompt.answer)
        )


@final
class StatedNumber:
    """The number that the completion states as its answer equals the answer, exactly.

    For tasks whose prompt asks for ``Answer: ...``; see `cream.data.extraction.stated_number`.
    """

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """Return a verdict, or None if the prompt has no answer."""
        if prompt.answer is None:
            return None
        extracted = extraction.stated_number(completion)
        value = None if extracted is None else extraction.number_value(extracted)
        if value is None:
            return _verdict(None, False)
        return _verdict(extracted, value == extraction.number_value(prompt.answer))


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
        return _verdict(extracted, extracted is not None and _same(extracted, prompt.answer))


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
        name = prompt.metadata.get("verifier")
        if name is None or prompt.answer is None:
            return None
        if name not in self._verifiers:
            self._verifiers[name] = verifier_named(name)
        return self._verifiers[name].verify(prompt, completion)


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
                "choice_letter and reasoning_gym"
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


def constant_baseline(prompts: Iterable[Prompt], verifier: Verifier) -> dict[str, ConstantAnswer]:
    """Find the best constant answer of every task, among the task's own reference answers.

    It stands beside accuracy in every table: always "1" is right on about 68 % of reasoning-gym's
    letter_counting. Candidates are all distinct answers (after strip and lower case), so it costs
    prompts x distinct answers verifications per task. Ties go to the most frequent answer, then to
    the first in alphabetical order. Prompts that cannot be verified are left out.
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
        spellings.setdefault(answer.strip().lower(), answer)
        frequency[answer.strip().lower()] += 1
    best, best_right = "", -1
    for key in sorted(frequency, key=lambda key: (-frequency[key], key)):
        verdicts = (verifier.verify(prompt, spellings[key]) for prompt in prompts)
        right = sum(verdict is not None and verdict.correct for verdict in verdicts)
        if right > best_right:
            best, best_right = spellings[key], right
    return ConstantAnswer(best, best_right / len(prompts), len(prompts))


def _same(a: str, b: str) -> bool:
    return a.strip().lower() == b.strip().lower()


def _verdict(extracted: str | None, correct: bool) -> Verdict:
    return Verdict(correct=correct, partial_credit=float(correct), extracted=extracted)
