"""Trajectories: one completion in which the policy solves, checks its own answer and solves again.

Text is cut into parts by two phrases, of which only the one that can follow is looked for: a
recheck ends a solution, a retry ends a check. So parts alternate and tile the text, and either
phrase where it cannot follow is plain text. One rule for training, evaluation and the making of
seed data. No model, no verifier.

Source: S2R, Ma et al. 2025, arXiv 2502.12853, whose code looks for the first word of the phrases
among ids that are joined to a string, and cuts otherwise at the outcome than at the process level.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from cream.errors import TallyError

Kind = Literal["solve", "verify"]
Parse = Literal["ok", "missing", "ambiguous"]


@dataclass(frozen=True)
class Grammar:
    """What opens a check and another try, and how a check says its verdict."""

    recheck: str
    """Opens a check. Words must follow one another as here; how much white space is between them
    does not matter."""
    retry: str
    """Opens another solution, after a check."""
    correct: tuple[str, ...]
    """Phrases by which a check says that the answer is right; case does not matter."""
    incorrect: tuple[str, ...]

    @cached_property
    def opening(self) -> dict[Kind, re.Pattern[str]]:
        """What ends a part of each kind, by opening the next."""
        return {"solve": _phrase(self.recheck), "verify": _phrase(self.retry)}

    @cached_property
    def verdicts(self) -> re.Pattern[str]:
        """Any verdict, the longest phrase first, so that a phrase within another is not read."""
        named = [(p, "correct") for p in self.correct] + [(p, "incorrect") for p in self.incorrect]
        named.sort(key=lambda item: -len(item[0]))
        alternatives = [_phrase(phrase).pattern for phrase, _ in named]
        return re.compile("|".join(f"({a})" for a in alternatives), re.IGNORECASE)

    @cached_property
    def says(self) -> tuple[bool, ...]:
        """What each alternative of `verdicts` says, in its order."""
        named = [(p, True) for p in self.correct] + [(p, False) for p in self.incorrect]
        return tuple(right for _, right in sorted(named, key=lambda item: -len(item[0])))

    def verdict(self, check: str) -> tuple[bool | None, Parse]:
        """What a check says of the solution before it, and whether it says one thing only."""
        said = {
            self.says[(found.lastindex or 1) - 1]
            for found in self.verdicts.finditer(check)
            if _stands_alone(check, found)
        }
        if len(said) == 1:
            return said.pop(), "ok"
        return None, "ambiguous" if said else "missing"


def _phrase(words: str) -> re.Pattern[str]:
    return re.compile(r"\s+".join(re.escape(word) for word in words.split()))


def _stands_alone(text: str, found: re.Match[str]) -> bool:
    """Whether the words at its ends are whole; scripts without case do not part words by spaces."""
    before, after = text[: found.start()][-1:], text[found.end() :][:1]
    inside = (found[0][0], found[0][-1])
    return not any(
        _in_word(a) and _in_word(b) for a, b in zip((before, after), inside, strict=True)
    )


def _in_word(character: str) -> bool:
    return character.isdigit() or character.lower() != character.upper()


@dataclass(frozen=True, slots=True)
class Part:
    """A solution or a check as a span of text."""

    kind: Kind
    start: int
    """First character; that of the phrase that opens it, but for the first part."""
    opened: int
    """First character after that phrase."""
    end: int
    """The character after its last one."""


def segment(text: str, grammar: Grammar) -> tuple[Part, ...]:
    """Cut a text into parts, solution and check in turn, which tile it; at least one.

    A phrase opens nothing before there is a solution: a text that begins with a recheck is one
    solution up to the next.
    """
    parts: list[Part] = []
    kind: Kind = "solve"
    start = opened = place = 0
    while found := grammar.opening[kind].search(text, place):
        place = found.end()
        if not text[start : found.start()].strip():
            continue
        parts.append(Part(kind, start, opened, found.start()))
        kind = "verify" if kind == "solve" else "solve"
        start, opened = found.span()
    return (*parts, Part(kind, start, opened, len(text)))


def token_places(
    places: Sequence[int], token_ids: Sequence[int], decode: Callable[[Sequence[int]], str]
) -> tuple[int, ...]:
    """For characters of ``decode(token_ids)`` the tokens that they are in, as positions.

    A token with characters of two parts so goes to the later one. Decodes about ``log2 n`` prefixes
    per place.

    Args:
        places: Positions of characters; that after the last one is in the position after the last
            token.
        token_ids: The whole completion.
        decode: Ids to text; of a prefix to a prefix of the text, but for a character that is cut.
    """
    whole = len(decode(token_ids))

    def shown(count: int) -> int:
        # A character whose bytes are not all there yet shows as one or more replacement characters.
        return len(decode(token_ids[:count]).rstrip("�"))

    def position(place: int) -> int:
        if place >= whole:
            return len(token_ids)
        return bisect_right(range(1, len(token_ids) + 1), place, key=shown)

    return tuple(map(position, places))


@dataclass(frozen=True, slots=True)
class Action:
    """A part as a span of tokens, with what became of it."""

    kind: Kind
    opened: int
    """Position of the first token after the phrase that opens it."""
    end: int
    """Position after its last token; the next action begins there. The last one ends with the
    completion, end token included."""
    parse: Parse
    """Whether the answer of a solution, or the verdict of a check, was found."""
    answer: str | None
    """Of a solution, as extracted."""
    verdict: bool | None
    """Of a check: whether it says that the solution before it is right."""
    correct: bool | None
    """Of a solution: whether its answer is right; of a check: whether its verdict is. None where
    the prompt has no answer. What is not found is never right."""


@dataclass(frozen=True, slots=True)
class TrajectoryCounts:
    """Counts over trajectories whose solutions can all be judged.

    Raises:
        TallyError: First and last answers do not differ by what was mended and spoilt.
    """

    total: int
    first_right: int
    last_right: int
    mended: int
    """First answer wrong, last right."""
    spoilt: int
    """First answer right, last wrong."""
    says_correct_right: int
    """Checks that say "correct" of a right solution."""
    says_correct_wrong: int
    says_incorrect_right: int
    says_incorrect_wrong: int
    unread_right: int
    """Checks of a right solution without a verdict, or with both."""
    unread_wrong: int
    solves: int
    retries_right: int
    """Solutions after the first that are right."""
    after_stop: int
    """Actions after a check that said "correct", where a trajectory should have ended."""

    def __post_init__(self) -> None:
        changed = self.last_right - self.first_right
        if changed != self.mended - self.spoilt:
            raise TallyError(
                f"the last answers are right {changed} times more often than the first, and "
                f"{self.mended} were mended, {self.spoilt} spoilt"
            )

    @property
    def figures(self) -> dict[str, float | None]:
        """Shares by name; None where there is nothing that they are a share of.

        ``first``, ``last``: accuracy. ``verdict_accuracy``: checks whose verdict is true, of all.
        ``error_recall`` (ER): of wrong solutions that were checked, those judged incorrect.
        ``confirmation`` (CP): of "correct" verdicts, true ones. ``balanced``: mean of ER and of
        right solutions judged correct. ``youden``: J, how much likelier "correct" is of a right
        solution than of a wrong one. ``mended`` (ICR): of wrong first answers, those whose last is
        right. ``spoilt`` (CIR): of right first answers, those whose last is wrong. ``retry``: of
        solutions after the first, right ones. ``unread``: of checks, those without one verdict.
        """
        right = self.says_correct_right + self.says_incorrect_right + self.unread_right
        wrong = self.says_correct_wrong + self.says_incorrect_wrong + self.unread_wrong
        b, c = _share(self.says_correct_right, right), _share(self.says_correct_wrong, wrong)
        found = _share(self.says_incorrect_wrong, wrong)
        true = self.says_correct_right + self.says_incorrect_wrong
        return {
            "first": _share(self.first_right, self.total),
            "last": _share(self.last_right, self.total),
            "verdict_accuracy": _share(true, right + wrong),
            "error_recall": found,
            "confirmation": _share(
                self.says_correct_right, self.says_correct_right + self.says_correct_wrong
            ),
            "balanced": None if b is None or found is None else (b + found) / 2,
            "youden": None if b is None or c is None else b - c,
            "mended": _share(self.mended, self.total - self.first_right),
            "spoilt": _share(self.spoilt, self.first_right),
            "retry": _share(self.retries_right, self.solves - self.total),
            "unread": _share(self.unread_right + self.unread_wrong, right + wrong),
        }


def _share(count: int, total: int) -> float | None:
    return count / total if total else None


def count(trajectories: Iterable[Sequence[Action]]) -> TrajectoryCounts:
    """Count what solutions and checks of trajectories came to.

    Args:
        trajectories: Actions of each, the first a solution; ``correct`` is never None.
    """
    found = dict.fromkeys(TrajectoryCounts.__dataclass_fields__, 0)
    for actions in trajectories:
        solves = [bool(action.correct) for action in actions if action.kind == "solve"]
        first, last = solves[0], solves[-1]
        found["total"] += 1
        found["first_right"] += first
        found["last_right"] += last
        found["mended"] += last and not first
        found["spoilt"] += first and not last
        found["solves"] += len(solves)
        found["retries_right"] += sum(solves[1:])
        found["after_stop"] += len(actions) - stop(actions)
        judged = False
        for action in actions:
            if action.kind == "solve":
                judged = bool(action.correct)
                continue
            said = {True: "says_correct", False: "says_incorrect", None: "unread"}[action.verdict]
            found[f"{said}_{'right' if judged else 'wrong'}"] += 1
    return TrajectoryCounts(**found)


def stop(actions: Sequence[Action]) -> int:
    """How many actions there are up to the first check that says "correct", it included."""
    for place, action in enumerate(actions):
        if action.verdict:
            return place + 1
    return len(actions)


def gain_of_one_retry(p: float, q: float, b: float, c: float) -> float:
    """Last minus first accuracy where a solution that is judged incorrect is tried again once.

    ``(1 - p) (1 - c) q - p (1 - b) (1 - q)``; with q = p it is ``p (1 - p) (b - c)``, so that
    checking helps if and only if J = b - c is above 0, whatever the accuracy of the verdicts.

    Args:
        p: First accuracy.
        q: Accuracy of the second try.
        b: How often a check says "correct" of a right solution.
        c: How often of a wrong one.
    """
    return (1 - p) * (1 - c) * q - p * (1 - b) * (1 - q)
