"""LLM-as-a-judge: what is asked, and reading the answer back.

Questions: a score by an additive five-point rubric, or which of two responses is better, in words
or as one letter.

Text in, text out; no model is called here. An answer without exactly one recognisable score is
unscored with a reason, never 0 and never a guess; likewise one without exactly one preference.

Source: the additive rubric of Self-Rewarding Language Models, Yuan et al. (arXiv 2401.10020),
figure 2, in our own words. It differs in that the score is asked for on a line of its own at the
end, and in that any answer beyond that form is rejected rather than searched for digits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import StrEnum

from cream.types import Message

MAX_SCORE = 5

_RUBRIC = """\
Judge how well the response below answers the user's message. Start from 0 and add one point for \
each statement that holds, stopping at the first that does not:
1. The response is relevant and gives some information the user asked for, even if incomplete.
2. It covers a substantial part of the request, though not necessarily all of it.
3. It answers the essential elements of the request in a useful way.
4. It is written as a helpful assistant would: direct, complete, well organised, to the point.
5. It is of expert quality: tailored to the request, insightful, and without anything superfluous.

User's message:
<message>
{prompt}
</message>

Response:
<response>
{response}
</response>

First justify your judgement in at most 100 words. Then end with one line of exactly this form, \
where N is the total from 0 to 5:
Score: N"""


_COMPARISON = """\
Judge which of the two responses below answers the user's message better. Their order and their \
length say nothing about their quality.

User's message:
<message>
{prompt}
</message>

Response A:
<response>
{first}
</response>

Response B:
<response>
{second}
</response>

First justify your judgement in at most 100 words. Then end with one line of exactly this form, \
where X is A, B or tie:
Better: X"""


_VERDICT = """\
Which response answers the message better? Reply with one letter, A or B.

Message:
{prompt}

Response A:
{first}

Response B:
{second}"""

VERDICT_LABELS = ("A", "B")
"""Whole answers to `verdict_prompt`: the first response is better, or the second."""


class Preference(StrEnum):
    """What a judge of two responses said."""

    FIRST = "A"
    SECOND = "B"
    TIE = "tie"


class Unscored(StrEnum):
    """Why a judge's text holds no score, or no preference."""

    NO_SCORE = "no_score"
    """Nothing of the form asked for."""
    OUT_OF_RANGE = "out_of_range"
    """A number below 0 or above 5."""
    OTHER_SCALE = "other_scale"
    """A score out of something else than 5; it is not rescaled."""
    CONFLICTING = "conflicting"
    """Two different scores, or preferences."""
    NO_LABEL = "label_mass"
    """The letters of a verdict have too little probability."""
    TRUNCATED = "truncated"
    """The judge ran out of tokens before it gave a score, or inside it."""


_SCORE = re.compile(
    r"""
    \b(?:score|rating|points)\b        # what is announced
    [\s*_`"]* (?:is\b|:|=) [\s*_`"]*   # how
    (?P<number>[-+]?\d+(?:\.\d+|,\d{1,2})?)
    (?!\d|[.,]\d|[eE^]\d|\s?[½¼¾]|\s+\d+/)  # the number whole, or none
    (?P<trailing>[.,]?)                # a full stop, or a number that goes on after the cut
    (?:[\s*_`"]* (?:/|out\s+of) [\s*_`"]* (?P<scale>\d+(?:\.\d+)?))?
    (?P<range>\s*(?:-|–|to)\s*\d)?     # "0 to 5" repeats the scale, it is no score
    """,
    re.IGNORECASE | re.VERBOSE,
)


_PREFERENCE = re.compile(
    r"""
    \bbetter\b [\s*_`"]* (?:is\b|:|=) [\s*_`"]* (?:response\s+)?
    (?P<which>A|B|tie) \b
    (?![\s*_`"]* (?:,|/|or\b|and\b))   # "A, B or tie" repeats the choice, it is no preference
    """,
    re.IGNORECASE | re.VERBOSE,
)


def conversation(messages: Sequence[Message]) -> str:
    """What a response answers, as text: a lone message as it is, more with their roles."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def judge_prompt(prompt: str, response: str) -> str:
    """Return the judge's instruction for one prompt and response, as the text of a user's turn.

    Both are inserted verbatim between tags; braces in them have no meaning.
    """
    return _filled(_RUBRIC, {"{prompt}": prompt, "{response}": response})


def comparison_prompt(prompt: str, first: str, second: str) -> str:
    """Return the judge's instruction for two responses, as the text of a user's turn."""
    return _filled(_COMPARISON, {"{prompt}": prompt, "{first}": first, "{second}": second})


def verdict_prompt(prompt: str, first: str, second: str) -> str:
    """Return a question whose whole answer is one of `VERDICT_LABELS`, as a user's turn.

    Short on purpose: its answer is not drawn but scored, and trained through.
    """
    return _filled(_VERDICT, {"{prompt}": prompt, "{first}": first, "{second}": second})


def verdict_question(messages: Sequence[Message], first: str, second: str) -> tuple[Message]:
    """The conversation that asks for a verdict on two responses to another one."""
    return (Message("user", verdict_prompt(conversation(messages), first, second)),)


def parse_score(text: str, *, truncated: bool = False) -> float | Unscored:
    """Read the one score in [0, 5] that a judge gave, or the reason why there is none.

    Recognised are ``Score: 4``, ``**Score:** 4.5/5``, ``score is 4 out of 5`` and the like;
    fractions are kept. Repeating the same score is no conflict. Numbers elsewhere in the text
    are never taken for a score.

    Args:
        text: What the judge wrote.
        truncated: It was cut off at the token limit, so that its last number may be unfinished.
    """
    found: set[float] = set()
    for match in _SCORE.finditer(text):
        if match["range"]:
            continue
        if truncated and not text[match.end() :].strip():
            return Unscored.TRUNCATED
        if match["scale"] is not None and float(match["scale"]) != MAX_SCORE:
            return Unscored.OTHER_SCALE
        found.add(float(match["number"].replace(",", ".")))
    if not found:
        return Unscored.TRUNCATED if truncated else Unscored.NO_SCORE
    if len(found) > 1:
        return Unscored.CONFLICTING
    (score,) = found
    return score if 0 <= score <= MAX_SCORE else Unscored.OUT_OF_RANGE


def parse_preference(text: str, *, truncated: bool = False) -> Preference | Unscored:
    """Read the one preference that a judge of two responses gave, or the reason why there is none.

    Args:
        text: What the judge wrote.
        truncated: It was cut off at the token limit, so that its last word may be unfinished.
    """
    found: set[Preference] = set()
    for match in _PREFERENCE.finditer(text):
        if truncated and not text[match.end() :].strip():
            return Unscored.TRUNCATED
        which = match["which"]
        found.add(Preference.TIE if which.lower() == "tie" else Preference(which.upper()))
    if not found:
        return Unscored.TRUNCATED if truncated else Unscored.NO_SCORE
    return found.pop() if len(found) == 1 else Unscored.CONFLICTING


def _filled(template: str, values: Mapping[str, str]) -> str:
    """Put texts into their places; what stands in a text is never taken for a place."""
    places = "|".join(map(re.escape, values))
    return re.sub(places, lambda match: values[match[0]], template)
