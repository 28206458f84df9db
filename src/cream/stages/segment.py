"""Completions to actions: trajectories cut into parts, each answer verified, each verdict read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import final

from cream.algorithms.trajectories import (
    Action,
    Grammar,
    TrajectoryCounts,
    count,
    gain_of_one_retry,
    segment,
    token_places,
)
from cream.protocols import Verifier
from cream.records import Count, TrajectoryFigures
from cream.types import Completion, Prompt, Tally, Verdict


class SegmentSummary(TrajectoryFigures):
    """What became of the parts of an iteration's completions."""

    solves: Tally
    checks: Tally
    """By whether an answer, or a verdict, was found: ``ok``, ``missing``, ``ambiguous``."""
    unverifiable: Count
    """Completions of prompts without an answer, which are not in the figures."""


def actions_of_text(
    prompt: Prompt, text: str, grammar: Grammar, verifier: Verifier
) -> tuple[Action, ...]:
    """The actions of a completion's text; positions are of characters."""
    found: list[Action] = []
    judged: bool | None = None
    for part in segment(text, grammar):
        said = text[part.opened : part.end]
        if part.kind == "verify":
            verdict, parse = grammar.verdict(said)
            right = None if judged is None else verdict == judged
            found.append(Action("verify", part.opened, part.end, parse, None, verdict, right))
            continue
        told = verifier.verify(prompt, said)
        answer = None if told is None else told.extracted
        judged = None if told is None else told.correct and answer is not None
        parse = "missing" if answer is None else "ok"
        found.append(Action("solve", part.opened, part.end, parse, answer, None, judged))
    return tuple(found)


def actions_of(
    prompt: Prompt,
    completion: Completion,
    grammar: Grammar,
    verifier: Verifier,
    decode: Callable[[Sequence[int]], str],
) -> tuple[Action, ...]:
    """The actions of a completion; positions are of tokens, and its spans tile the token ids."""
    found = actions_of_text(prompt, completion.text, grammar, verifier)
    places = [place for action in found for place in (action.opened, action.end)]
    tokens = token_places(places, completion.token_ids, decode)
    return tuple(
        replace(action, opened=opened, end=end)
        for action, opened, end in zip(found, tokens[::2], tokens[1::2], strict=True)
    )


@final
class LastAnswer:
    """A verifier that looks at the last solution of a trajectory.

    Args:
        verifier: What verifies it.
        grammar: By what completions are cut.
    """

    def __init__(self, verifier: Verifier, grammar: Grammar) -> None:
        self._verifier, self._grammar = verifier, grammar

    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        """What the verifier says of the last solution."""
        last = [p for p in segment(completion, self._grammar) if p.kind == "solve"][-1]
        return self._verifier.verify(prompt, completion[last.opened : last.end])


def trajectory_figures(trajectories: Sequence[Sequence[Action]]) -> TrajectoryFigures:
    """Counts and shares of those trajectories whose prompts have answers."""
    known = [actions for actions in trajectories if actions[0].correct is not None]
    counts = count(known)
    return TrajectoryFigures(
        counts={name: getattr(counts, name) for name in TrajectoryCounts.__dataclass_fields__},
        shares=counts.figures,
        one_retry=_one_retry(counts),
    )


def _one_retry(counts: TrajectoryCounts) -> float | None:
    shares = counts.figures
    p, found, balanced = shares["first"], shares["error_recall"], shares["balanced"]
    if p is None or found is None or balanced is None:
        return None
    return gain_of_one_retry(p, p, 2 * balanced - found, 1 - found)


def in_words(figures: TrajectoryFigures) -> str:
    """First and last accuracy with the identity between them, and what the checks are worth."""
    shares, counts = figures.shares, figures.counts
    first, last = shares["first"], shares["last"]
    if first is None or last is None:
        return "no reference answers"
    gain = (counts["last_right"] - counts["first_right"]) / counts["total"]
    words = (
        f"first answer {100 * first:.1f} %, last {100 * last:.1f} % of {counts['total']} "
        f"({gain:+.3f} = {1 - first:.3f} x {_told(shares['mended'])} mended "
        f"- {first:.3f} x {_told(shares['spoilt'])} spoilt)"
    )
    if shares["verdict_accuracy"] is None:
        return f"{words}, no checks"
    return (
        f"{words}, verdicts {100 * shares['verdict_accuracy']:.1f} % true, balanced "
        f"{_told(shares['balanced'])}, J {_told(shares['youden'])}"
    )


def _told(share: float | None) -> str:
    return "-" if share is None else f"{share:.3f}"
