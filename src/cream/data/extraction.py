"""Finding the answer in a completion. Pure text in, text or None out; nothing is ever guessed.

None means that no answer was found by these rules; it is counted as unparsed and is never correct.
"""

from __future__ import annotations

import re
from fractions import Fraction

from cream.algorithms.numbers import Found, find_numbers, normalised

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
# Quantifiers that could share characters are possessive (``*+``): a policy that has collapsed
# writes thousands of equal characters, on which backtracking would take hours.
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


_SEVERAL = re.compile(r"\s*(?:,|;|\band\b|&)\s*(?:and\s+)?[-+$€£¥(]{0,3}\.?[0-9]", re.IGNORECASE)
_SEVERAL_EQUATIONS = re.compile(
    r"=[^=]*(?:\bor\b|\band\b|[,;])\s*[A-Za-z]\w{0,2}\s*=", re.IGNORECASE
)


def last_number(text: str) -> str | None:
    """Return the last number of a text, as it is written, or None.

    What a number is says `cream.algorithms.numbers`. None if the last digits belong to something
    larger (a formula, a time, a version): an earlier number is not what the text ends with.
    """
    found = find_numbers(normalised(text))
    return found[-1].written if found and found[-1].value is not None else None


def number_value(text: str) -> Fraction | None:
    """Exact value of the last number in a text; None where `last_number` is None."""
    found = find_numbers(normalised(text))
    return found[-1].value if found else None


def stated_number(text: str) -> str | None:
    r"""Return the number that a text states as its answer, as it is written, or None.

    Looked at is the last statement that holds digits: ``Answer: 18 dollars``, ``the answer is
    18``, ``#### 18``, ``\boxed{18}`` (the inside of the braces). On its line the number after the
    last equals sign counts (``Answer: 5 + 3 = 8``), without one the first number. None if these
    digits are no whole number, or if the statement gives several (``Answer: 3, 5``). A text without
    a statement states none: its last number may be a step, a year or the number of a list item.

    The reference code of CREAM takes the first number after the first mark, and ``###``, which
    opens Markdown headings, is one of its marks (see `cream.data.reference_extraction`).
    """
    found = _stated(text)
    return found.written if found is not None and found.value is not None else None


def stated_value(text: str) -> Fraction | None:
    """Exact value of the number that `stated_number` finds."""
    found = _stated(text)
    return found.value if found is not None else None


def _stated(text: str) -> Found | None:
    text = normalised(text)
    end = len(text)
    for statement in reversed(list(_NUMBER_STATEMENT.finditer(text))):
        rest = text[statement.end() : end]
        rest = _braced(rest) if statement[0].endswith("{") else rest.partition("\n")[0]
        end = statement.start()
        after = rest.rpartition("=")[2]
        several = _SEVERAL_EQUATIONS.search(rest) is not None
        for part in (after, rest) if "=" in rest else (rest,):
            found = find_numbers(part)
            if found:
                several = several or _SEVERAL.match(part, found[0].end) is not None
                return None if several else found[0]
    return None


def _braced(text: str) -> str:
    """The text up to the brace that closes what was open before it; all of it without one."""
    depth = 0
    for match in re.finditer(r"[{}]", text):
        depth += 1 if match[0] == "{" else -1
        if depth < 0:
            return text[: match.start()]
    return text


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
