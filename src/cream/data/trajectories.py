"""Trajectories made of a model's own answers: seed data for behaviour initialisation.

Wrong answers of the model, each found wrong by its check, then a right one, confirmed. Checks are
written by rule, so they are true. No model: what was sampled comes in.

Source: S2R, arXiv 2502.12853, whose checks are written by another model and kept where they agree
with the truth; the rounds by difficulty are those of its code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cream.algorithms.trajectories import Grammar, segment
from cream.data.completion_spans import COMPLETION_SPANS, written_spans
from cream.data.files import checked_text
from cream.errors import DataError
from cream.protocols import Verifier
from cream.recipe.trajectory import Phrases
from cream.types import Completion, FinishReason, Prompt, Tally

WRITTEN = "written"
UNVERIFIABLE = "unverifiable"
"""The prompt has no answer."""
NO_RIGHT = "no_right_answer"
MISREAD = "misread"
"""The trajectory, read back, is not what was written: a check says a phrase, or no verdict."""

Check = Callable[[Prompt, str, bool], str]
"""Prompt, solution, and whether it is right, to the text of its check, which says so."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """An answer of the model that can stand in a trajectory."""

    text: str
    answer: str
    right: bool


def build_trajectories(
    samples: Sequence[tuple[Prompt, Sequence[Completion]]],
    verifier: Verifier,
    phrases: Phrases,
    *,
    check: Check | None = None,
    most_rounds: int = 4,
) -> tuple[list[dict[str, Any]], Tally]:
    """Rows of a seed file, one per prompt with a right answer.

    The number of rounds is by difficulty, counted over all samples: none wrong 1, one wrong 2, two
    or three 3, more 4; fewer where there are not as many different wrong answers.

    Args:
        samples: Prompts with what the model answered.
        verifier: Judges the answers.
        phrases: What opens checks and retries.
        check: Writes checks; by default ``phrases.confirm`` and ``phrases.reject``.
        most_rounds: Solutions in a trajectory, >= 1.

    Returns:
        Rows with ``prompt``, ``answer``, ``task`` and the completion in spans, wrong solutions not
        trained on; and prompts by what became of them.
    """
    rows: list[dict[str, Any]] = []
    counts: dict[str, int] = dict.fromkeys((WRITTEN, NO_RIGHT, UNVERIFIABLE, MISREAD), 0)
    for prompt, completions in samples:
        spans: list[tuple[str, bool]] = []
        why = UNVERIFIABLE
        if verifier.verify(prompt, "") is not None:
            rounds = _rounds(prompt, completions, verifier, phrases.grammar, most_rounds)
            why = NO_RIGHT
            if rounds:
                spans = _spans(prompt, rounds, phrases, check)
                truth = [attempt.right for attempt in rounds]
                why = WRITTEN if _reads_back(spans, phrases.grammar, truth) else MISREAD
        counts[why] += 1
        if why == WRITTEN:
            rows.append(_row(prompt, spans))
    return rows, Tally(len(samples), counts)


def _rounds(
    prompt: Prompt,
    completions: Sequence[Completion],
    verifier: Verifier,
    grammar: Grammar,
    most_rounds: int,
) -> list[Attempt]:
    """Different wrong answers in the order they were drawn, then the first right one; or none."""
    right: list[Attempt] = []
    wrong: dict[str, Attempt] = {}
    num_wrong = 0
    for one in completions:
        told = verifier.verify(prompt, one.text)
        correct = told is not None and told.correct and told.extracted is not None
        num_wrong += not correct
        if told is None or told.extracted is None or not _fit_to_write(one, grammar):
            continue
        attempt = Attempt(one.text.strip(), told.extracted, correct)
        if correct:
            right.append(attempt)
        else:
            wrong.setdefault(told.extracted, attempt)
    wanted = 1 + (num_wrong >= 1) + (num_wrong >= 2) + (num_wrong >= 4)
    before = list(wrong.values())[: min(wanted, most_rounds) - 1]
    return [*before, right[0]] if right else []


def _fit_to_write(one: Completion, grammar: Grammar) -> bool:
    """Whether an answer is whole, no trajectory itself, and text that a file can hold."""
    try:
        checked_text(one.text, one.completion_id, COMPLETION_SPANS)
    except DataError:
        return False
    return one.finish_reason == FinishReason.STOP and len(segment(one.text, grammar)) == 1


def _spans(
    prompt: Prompt, rounds: Sequence[Attempt], phrases: Phrases, check: Check | None
) -> list[tuple[str, bool]]:
    joint = phrases.joint
    found: list[tuple[str, bool]] = []
    for number, attempt in enumerate(rounds):
        if number:
            found.append((f"{joint}{phrases.retry}{joint}", True))
        found.append((attempt.text, attempt.right))
        if check is None:
            said = phrases.confirm if attempt.right else phrases.reject
            said = said.replace("{answer}", attempt.answer)
        else:
            said = check(prompt, attempt.text, attempt.right)
        found.append((f"{joint}{phrases.recheck}{joint}{said}", True))
    return found


def _reads_back(spans: Sequence[tuple[str, bool]], grammar: Grammar, truth: Sequence[bool]) -> bool:
    """Whether the text is cut into what it was made of, and every check says the truth."""
    text = "".join(part for part, _ in spans)
    parts = segment(text, grammar)
    said = [grammar.verdict(text[p.opened : p.end])[0] for p in parts if p.kind == "verify"]
    return len(parts) == 2 * len(truth) and said == list(truth)


def _row(prompt: Prompt, spans: Sequence[tuple[str, bool]]) -> dict[str, Any]:
    turns: list[Mapping[str, str]] = [
        {"role": turn.role, "content": turn.content} for turn in prompt.messages
    ]
    alone = len(turns) == 1 and prompt.messages[0].role == "user"
    return {
        "prompt": prompt.messages[0].content if alone else turns,
        "answer": prompt.answer,
        "task": prompt.task,
        COMPLETION_SPANS: written_spans(spans),
    }
