r"""Numbers in text: read whole, or not at all.

One grammar for answers, references and judges. `find_numbers` lists every place where a number
stands and says what it is worth, or that it cannot be told: a digit that belongs to something
larger (``2\pi``, ``3x + 1``, ``3:45``, ``1.2.3``, ``5-3``, ``3,5``, ``5 hours 30 minutes``) is
never read alone, because a fragment that happens to equal the reference would count as right.

Read are: signs (hyphen, minus, en dash) that follow no digit, letter or closing bracket; groups of
three (``1,234``, with no-break or thin spaces, apostrophes, underscores, LaTeX ``{,}`` and ``\,``)
and Indian groups (``1,25,000``); decimals with a point; exponents (``2.5e3``, ``2.5 \times 10^3``,
``10^6``); fractions (``3/4``, ``\frac{3}{4}``, ``½``) and mixed numbers (``1 1/2``); hundred to
trillion. Currency, percent and units do not change a value: ``50%`` is 50, ``12kg`` is 12.

Not read, because people mean two things by them: ``3,5`` and ``1.234,56``, ``12 500`` with an
ordinary space, ``5k``. Digits inside words (``M2``, ``COVID-19``) are no numbers at all.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction

from cream.algorithms.number_context import (
    MAGNITUDES,
    SPACE,
    VULGAR,
    compound_spans,
    left_is_free,
    right_is_free,
    sign_before,
)

MAX_DIGITS = 1000
"""Longer runs of digits, and powers with more, are noise (Python refuses beyond 4300)."""


@dataclass(frozen=True, slots=True)
class Found:
    """A place in a text where a number stands."""

    start: int
    """Where it begins in the normalised text (`normalised`), sign and currency included."""
    end: int
    written: str
    """As it stands in the normalised text."""
    value: Fraction | None
    """Exact value; None if it belongs to something larger, or could mean two things."""


def find_numbers(text: str) -> list[Found]:
    """Every number in a text that `normalised` returned, in order. Linear in the text's length."""
    return list(_found(text, compound_spans(text)))


def normalised(text: str) -> str:
    """Bring the many spellings of one sign into one: digits, minus, spaces, LaTeX."""
    if not text.isascii():
        text = _OTHER_DIGIT.sub(lambda match: str(unicodedata.decimal(match[0])), text)
        text = text.translate(_SIGNS)
    if "\\" in text or "{,}" in text or "~" in text:
        for pattern, replacement in _LATEX:
            text = pattern.sub(replacement, text)
    return text


def whole_number(text: str) -> Fraction | None:
    """Exact value of a text that is one number and nothing else; else None."""
    plain = normalised(text).strip()
    found = find_numbers(plain)
    whole = len(found) == 1 and (found[0].start, found[0].end) == (0, len(plain))
    return found[0].value if whole else None


def canonical(value: Fraction) -> str:
    """The one way to write a value: ``18``, ``-2.5``, ``1/3``; equal texts are equal values."""
    denominator, twos, fives = value.denominator, 0, 0
    while denominator % 2 == 0:
        denominator, twos = denominator // 2, twos + 1
    while denominator % 5 == 0:
        denominator, fives = denominator // 5, fives + 1
    places = max(twos, fives)
    if denominator != 1 or places > MAX_DIGITS:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).rjust(places + 1, "0")
    sign = "-" if value < 0 else ""
    return f"{sign}{digits[:-places]}.{digits[-places:]}" if places else f"{sign}{digits}"


# --- spelling ---

_OTHER_DIGIT = re.compile(r"[^\D0-9]")
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("\u2212\ufe63\uff0d\u2010\u2011\u2012\u2013", "-"),
        **dict.fromkeys("\u2005\u2006\u2007\u2008\u2009\u200a\u202f", SPACE),
        **dict.fromkeys("\u200b\u200c\u200d\u200e\u200f\u2060\ufeff", None),
        **dict.fromkeys("\u2019\u02bc\u2032\u00b4", "'"),
        **dict.fromkeys("\u22c5\u00b7\u2217\u2022\u2a2f", "×"),
        **dict.fromkeys("\u2044\u2215\uff0f", "/"),
        **dict.fromkeys("\u066a\uff05\ufe6a", "%"),
        **dict.fromkeys("\u066b", "."),
        **dict.fromkeys("\u066c\uff0c", ","),
        "\uff0b": "+",
        "\uff1d": "=",
        "\uff1a": ":",
        "\uff0e": ".",
        "\u2026": "...",
        "\u00ba": "°",
    }
)
_WORD_END = r"(?![A-Za-z])"
_LATEX = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (rf"\\(?:left|right|big|Big|bigg|Bigg|bigl|bigr|displaystyle|textstyle){_WORD_END}", ""),
        (rf"\\[dtc]frac{_WORD_END}", r"\\frac"),
        (r"\{,\}|,\\!", ","),
        (r",(?:\\[,;: ]|~)(?=[0-9]{3}(?![0-9]))", ","),
        (r"\\!", ""),
        (r"(?<=[0-9])\s?(?:\\[,;: ]|~)\s?(?=[0-9])", SPACE),
        (r"\\[,;:]|~|\\(?=\s)", " "),
        (r"\\([%$#&])", r"\1"),
        (rf"\^\s*\{{?\s*\\circ{_WORD_END}\s*\}}?|\\degree{_WORD_END}", "°"),
        (rf"\\(?:cdot|times|ast){_WORD_END}", "×"),
        (rf"\\div{_WORD_END}", "÷"),
        (rf"\\(?:pm|mp){_WORD_END}", "±"),
        (rf"\\[lc]?dots{_WORD_END}", "..."),
        (rf"\\pi{_WORD_END}", "π"),
        (rf"\\infty{_WORD_END}", "∞"),
        (rf"\\sqrt{_WORD_END}", "√"),
        (r"\\[()\[\]]", " "),
        (rf"\\q?quad{_WORD_END}", " "),
    )
)

# --- the grammar ---

_RUN = rf"\.?[0-9]++(?:(?:[.,'_:/{SPACE}]|[eE][-+]?)[0-9]++)*+"
# Possessive throughout: a policy that has collapsed writes thousands of equal characters.
_CANDIDATE = re.compile(
    rf"(?P<whole>[0-9]{{1,9}}\s?)?+\\frac\s*+(?:\{{(?P<n>[^{{}}]{{0,80}})\}}|(?P<n1>[0-9]))\s*+"
    rf"(?:\{{(?P<d>[^{{}}]{{0,80}})\}}|(?P<d1>[0-9]))"
    rf"|(?P<run>{_RUN})(?:[ ]?(?P<vulgar>[{VULGAR}])"
    r"|[ ]++(?P<mixed>[0-9]++/[0-9]++)(?![/.,:]?[0-9]))?"
    rf"|(?P<alone>[{VULGAR}])"
)
_GROUPED = (
    r"[0-9]{1,3}(?:,[0-9]{3})+|[0-9]{1,2}(?:,[0-9]{2})+,[0-9]{3}|[0-9]{1,3}(?:'[0-9]{3})+"
    rf"|[0-9]{{1,3}}(?:_[0-9]{{3}})+|[0-9]{{1,3}}(?:{SPACE}[0-9]{{3}})+|[0-9]+"
)
_DECIMAL = re.compile(
    rf"(?P<digits>(?:{_GROUPED})(?:\.[0-9]+)?|\.[0-9]+)(?P<e>[eE][-+]?[0-9]{{1,3}})?"
)
_RATIO = re.compile(rf"(?P<n>{_GROUPED})/(?P<d>{_GROUPED})")
_GROUP_MARKS = re.compile(rf"[,'_{SPACE}]")
_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻⁺", "0123456789-+")
_POWER = re.compile(
    r"(?:(?:\^|\*\*)\s?(?:\{\s?(?P<braced>[-+]?[0-9]{1,4})\s?\}|(?P<bare>[-+]?[0-9]{1,4})(?![0-9.]))"
    r"|(?P<raised>[⁻⁺]?[⁰¹²³⁴⁵⁶⁷⁸⁹]{1,4}))"
)
_TIMES_TEN = re.compile(r"\s?[×*x]\s?10(?=\s?\^|\*\*|[⁻⁺⁰¹²³⁴⁵⁶⁷⁸⁹])\s?")
_UNIT_POWER = re.compile(r"\s?[A-Za-z]+(?:/[A-Za-z]+)?\^\{?-?[0-9]\}?")
"""A unit with its power (``m^2``), which is no number of its own."""
_TEXT_OPENS = r"(?:\\(?:text|textrm|mathrm|mbox)\s?\{\s?)?"
_MAGNITUDE = re.compile(
    rf"[ {SPACE}-]{{0,2}}{_TEXT_OPENS}(?P<word>{'|'.join(MAGNITUDES)})s?\b", re.I
)


def _decimal(text: str) -> Fraction | None:
    match = _DECIMAL.fullmatch(text)
    if match is None or len(text) > MAX_DIGITS:
        return None
    return Fraction(_GROUP_MARKS.sub("", match["digits"]) + (match["e"] or ""))


def _ratio(text: str) -> Fraction | None:
    match = _RATIO.fullmatch(text)
    if match is None or len(text) > MAX_DIGITS:
        return None
    below = int(_GROUP_MARKS.sub("", match["d"]))
    return Fraction(int(_GROUP_MARKS.sub("", match["n"])), below) if below else None


def _literal(match: re.Match[str]) -> Fraction | None:
    """Value of what the grammar found, without its surroundings."""
    if match["alone"]:
        return _vulgar(match["alone"])
    if match["run"] is None:
        above = (match["n"] or match["n1"] or "").strip()
        minus = above.startswith("-")
        n, d = (
            _decimal(above.removeprefix("-").strip()),
            _decimal((match["d"] or match["d1"] or "").strip()),
        )
        if n is None or not d or (minus and match["whole"]):
            return None
        value = n / d * (-1 if minus else 1)
        return value if match["whole"] is None else _mixed(int(match["whole"].strip()), value)
    part = match["vulgar"] or match["mixed"]
    if part:
        fraction = _vulgar(part) if match["vulgar"] else _ratio(part)
        digits = match["run"].isdecimal() and len(match["run"]) <= MAX_DIGITS
        return _mixed(int(match["run"]), fraction) if digits and fraction is not None else None
    return _decimal(match["run"]) if "/" not in match["run"] else _ratio(match["run"])


def _vulgar(sign: str) -> Fraction:
    return Fraction(unicodedata.numeric(sign)).limit_denominator(10)


def _mixed(whole: int, part: Fraction) -> Fraction | None:
    return whole + part if 0 < part < 1 else None


def _powers(text: str, end: int, value: Fraction) -> tuple[int, Fraction | None]:
    """Take in ``× 10^3`` and ``^3`` after a number; None if the result has too many digits."""
    base, factor = value, Fraction(1)
    power = _POWER.match(text, end)
    if ten := _TIMES_TEN.match(text, end):
        base, factor, power = Fraction(10), value, _POWER.match(text, ten.end())
    if power is None:
        return end, value
    raised = (power["raised"] or "").translate(_SUPERSCRIPTS)
    exponent = int(power["braced"] or power["bare"] or raised)
    size = len(str(base.numerator)) * abs(exponent)
    if base.denominator != 1 or size > MAX_DIGITS or (base == 0 and exponent <= 0):
        return power.end(), None
    return power.end(), factor * base**exponent


def _found(text: str, compound: list[tuple[int, int]]) -> Iterator[Found]:
    taken = span = 0
    for match in _CANDIDATE.finditer(text):
        start, end = match.span()
        if start < taken:
            continue  # the exponent of the number before
        value = _literal(match)
        if value is not None:
            end, value = _powers(text, end, value)
        if value is not None and (size := _MAGNITUDE.match(text, end)):
            end, value = size.end(), value * MAGNITUDES[size["word"].lower()]
        start, sign = sign_before(text, start)
        if sign == "word":
            continue
        taken = end
        while span < len(compound) and compound[span][1] <= start:
            span += 1
        inside = span < len(compound) and compound[span][0] <= start
        plain = match["run"] is not None and match["run"].isdecimal()
        free = not inside and left_is_free(text, start, value) and right_is_free(text, end, plain)
        if not sign or not free:
            value = None
        if value is not None:
            value = -value if sign == "-" else value
            taken = unit.end() if (unit := _UNIT_POWER.match(text, end)) else end
        yield Found(start, end, text[start:end], value)
