"""Finding the answer in a completion. Pure text in, text or None out; nothing is ever guessed.

None means that no answer was found by these rules; it is counted as unparsed and is never correct.
"""

from __future__ import annotations

import re
from fractions import Fraction

# Quantifiers that could share characters are possessive (``*+``): a policy that has collapsed
# writes thousands of equal characters, on which backtracking would take hours.
_NUMBER = re.compile(
    r"(?<![\w.])"  # not inside a word (M2) or a version (1.2.3)
    r"(?P<sign>(?<![)\]}])[-+])?"  # a hyphen after a word, digit or bracket is not a sign (5-3)
    r"\$?"
    r"(?P<digits>(?:(?:\d{1,3}(?:,\d{3})++(?![\d,]*\d)|\d+)(?:\.\d+)?|\.\d+)"
    r"(?:[eE][-+]?\d{1,2})?)"
    r"(?P<denominator>/\d+)?"
    r"(?!\d|\.\d|[eE]\d)"
)
_MAX_DIGITS = 1000
"""Longer runs of digits are noise; Python refuses to convert beyond 4300."""

_OPENING = r"(?:\\boxed\{|\\text\{|[\s*_(\[\"'`$])*+"
_STATEMENT = re.compile(
    r"(?:\banswer(?:\s+to\s+(?:the|this)\s+question)?[\s*_]*(?:\bis\b|\bwould\s+be\b|[:=])"
    r"|\bcorrect\s+(?:option|choice)[\s*_]*(?:\bis\b|[:=])"
    r"|\bchoose\b)"
    r"[\s*_]*+:?[\s*_]*+(?:(?:option|choice)\b)?"
    + _OPENING
    + r"(?<![A-Za-z])(?P<letter>[A-Za-z])(?![A-Za-z])(?=(?P<after>[\s\S]{0,12}))",
    re.IGNORECASE,
)
_NUMBER_STATEMENT = re.compile(
    r"\banswer[\s*_]*+(?:\bis\b|[:=])[\s*_:]*+|####\s*+(?=[-+$.\d])|\\boxed\{", re.IGNORECASE
)
_BOXED = re.compile(r"\\boxed\{\s*(?:\\text\{\s*)?\(?(?P<letter>[A-Za-z])\)?\s*\}")
_ALONE = re.compile(r"[\s*_(\[\"'`$]*(?P<letter>[A-Za-z])[\s*_)\]\"'`$.,:]*")
_LEADING = re.compile(r"[\s*_]*(?:\((?P<round>[A-Za-z])\)|(?P<plain>[A-Z])[).:])(?=[\s*_]|$)")
_CLOSED = re.compile(r"[*_)\]}\"'`$.:;!]+(?:,?\s|$)|\s*$|[^\S\n]*\n")
_EXPLAINED = re.compile(r",?\s+(?:because|since|as|for|due)\b|,\s+[A-Za-z]{2}|\s*[-–—(]")


def whole_completion(text: str) -> str | None:
    """Return the whole text without surrounding white space: for tasks with short answers."""
    return text.strip() or None


def tagged(text: str, tag: str) -> str | None:
    """Return the inside of the last ``<tag>...</tag>``, stripped; None if there is none."""
    opening, closing = f"<{tag}>", f"</{tag}>"
    inside, end = None, 0
    while (start := text.find(opening, end)) >= 0:  # each character is looked at once
        start += len(opening)
        end = text.find(closing, start)
        if end < 0:
            break
        inside = text[start:end]
        end += len(closing)
    return (inside.strip() or None) if inside is not None else None


def last_number(text: str) -> str | None:
    """Return the last number that stands on its own, as it is written.

    Understands signs, thousands separators (``1,234``), decimals, ``$`` and simple fractions. Not
    numbers: digits inside words (``M2``) and versions (``1.2.3``).
    """
    matches = list(_NUMBER.finditer(text.replace("−", "-")))
    return matches[-1].group().strip() if matches else None


def number_value(text: str) -> Fraction | None:
    """Exact value of the last number in a text; None without one (or with denominator 0)."""
    matches = list(_NUMBER.finditer(text.replace("−", "-")))
    if not matches or len(matches[-1].group()) > _MAX_DIGITS:
        return None
    match = matches[-1]
    value = Fraction(match["digits"].replace(",", ""))
    if match["denominator"]:
        denominator = int(match["denominator"][1:])
        if denominator == 0:
            return None
        value /= denominator
    return -value if match["sign"] == "-" else value


def whole_number(text: str) -> Fraction | None:
    """Exact value of a text that is one number and nothing else; else None."""
    return number_value(text) if last_number(text) == text.strip() else None


def stated_number(text: str) -> str | None:
    r"""Return the number that a text states as its answer, as it is written, or None.

    Looked at is the last statement that holds a number: ``Answer: 18 dollars``, ``the answer is
    18``, ``#### 18``, ``\boxed{18}``. On its line the number after the last equals sign counts
    (``Answer: 5 + 3 = 8``), without one the first number. A text without a statement states none:
    its last number may be a step, a year or the number of a list item.

    The reference code of CREAM takes the first number after the first mark, and ``###``, which
    opens Markdown headings, is one of its marks (see `cream.data.reference_extraction`).
    """
    end = len(text)
    for statement in reversed(list(_NUMBER_STATEMENT.finditer(text))):
        rest = text[statement.end() : end].partition("\n")[0].replace("−", "-")
        end = statement.start()
        numbers = _NUMBER.finditer(rest.rpartition("=")[2]) if "=" in rest else iter(())
        first = next(numbers, None) or next(_NUMBER.finditer(rest), None)
        if first is not None:
            return first.group().strip()
    return None


def choice_letter(text: str, letters: str) -> str | None:
    r"""Return the chosen letter of a multiple-choice question in upper case, or None.

    Three places are looked at, in this order: the last explicit statement (``the answer is (B)``,
    ``Answer: B``, ``\boxed{B}``), a last line that is nothing but a letter, and a letter that opens
    the text as a list mark (``B) because ...``). A letter inside or at the start of a sentence
    (``a dog``, ``The answer is a dog``, ``I think``) is no choice. There is no further fallback:
    the reference code of CREAM takes the last stand-alone letter, which reads ``a dog`` as A.
    """
    stated = [(m.start(), m["letter"]) for m in _BOXED.finditer(text)]
    for match in _STATEMENT.finditer(text):
        if _is_choice(match["letter"], match["after"]):
            stated.append((match.start(), match["letter"]))
    if stated:
        return _allowed(max(stated)[1], letters)
    lines = text.strip().splitlines()
    if lines and (alone := _ALONE.fullmatch(lines[-1])):
        return _allowed(alone["letter"], letters)
    if leading := _LEADING.match(text):
        return _allowed(leading["round"] or leading["plain"], letters)
    return None


def _is_choice(letter: str, after: str) -> bool:
    if _CLOSED.match(after):
        return True
    return letter.isupper() and _EXPLAINED.match(after) is not None


def _allowed(letter: str, letters: str) -> str | None:
    return letter.upper() if letter.upper() in letters else None
