"""What stands around a number: whether it leaves the number whole. Pure; see `numbers`.

Looked at are a bounded number of characters on both sides. Brackets, quotes, Markdown and
typographic commands of LaTeX are looked through; operators, functions, variables and further
numbers bind.
"""

from __future__ import annotations

import re
from fractions import Fraction

SPACE = "\u00a0"
"""Stands for every space that does not break a number."""
VULGAR = "¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞"
MAGNITUDES = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
"""Words that multiply the number before them."""
CURRENCY = "$€£¥₹"
_MAX_STEPS = 24
"""How many marks around a number are looked through; more are noise."""
_OPERATORS = "×÷^√±+/πº∞"
_OPENING = "([{"
_CLOSING = ")]}"
_FUNCTIONS = frozenset(
    {"sqrt", "root", "log", "ln", "lg", "exp", "sin", "cos", "tan", "cot", "sec", "csc", "arcsin"}
    | {"arccos", "arctan", "sinh", "cosh", "tanh", "det", "gcd", "lcm", "max", "min", "mod", "abs"}
    | {"floor", "ceil", "binom", "overline"}
)
_TRANSPARENT = frozenset(
    {"boxed", "fbox", "text", "textbf", "textit", "textrm", "mathrm", "mathbf", "mathit", "mathsf"}
    | {"mbox", "emph", "underline", "bf", "rm", "bm", "boldsymbol"}
)
_RELATIONS = frozenset(
    {"le", "leq", "ge", "geq", "lt", "gt", "ne", "neq", "approx", "sim", "simeq", "equiv", "cong"}
    | {"to", "rightarrow", "Rightarrow", "implies", "iff", "therefore", "because", "and", "or"}
    | {"end", "hfill", "square", "blacksquare", "checkmark", "in", "item", "newline", "par", "qed"}
)
_UNITS = frozenset(
    {"m", "g", "s", "h", "l", "L", "W", "V", "A", "N", "J", "C", "F", "kg", "mg", "km", "cm", "mm"}
    | {"nm", "mi", "ft", "in", "yd", "lb", "lbs", "oz", "ml", "mL", "dl", "cl", "min", "mins", "hr"}
    | {"hrs", "sec", "secs", "ms", "st", "nd", "rd", "th", "am", "pm", "AM", "PM", "USD", "EUR"}
    | {"GBP", "kWh", "kW", "Hz", "kHz", "MHz", "GHz", "kB", "MB", "GB", "TB", "KB", "mph", "kph"}
    | {"km²", "ha", "cc", "pt", "px", "cal", "kcal", "ppm", "pts", "yrs", "yr", "pcs", "Pa", "kPa"}
)
_LETTERS = re.compile(r"[^\W\d_]+")
_WORD_BEFORE = re.compile(r"(?P<slash>\\?)(?P<word>[^\W\d_]+)$")
_JOINS = (
    r"(?:to|or|out\s+of|point|mod|choose|plus|minus|times|over|divided\s+by|multiplied\s+by"
    r"|to\s+the\s+power\s+of)"
)
_SIZES = "|".join(MAGNITUDES)
_JOINED_BEFORE = re.compile(
    rf"(?:[0-9%)}}]|\b(?:{_SIZES}))\s+{_JOINS}\s+$|\b(?:{_SIZES})\s+(?:and\s+)?$", re.IGNORECASE
)
_AND_BEFORE = re.compile(r"[0-9]\s+(?:and|&)\s+$")
_JOINED_AFTER = re.compile(
    rf"\s+{_JOINS}\s+[-+{CURRENCY}]{{0,2}}\.?[0-9]"
    r"|(?:\s+and)?\s+(?:a\s+|one\s+|three\s+)?(?:half|halves|quarters?|thirds?|fifths?)\b"
    r"|\s+and\s+[0-9]++/[0-9]"
    r"|\s+point\s+(?:zero|one|two|three|four|five|six|seven|eight|nine)",
    re.IGNORECASE,
)
_NUMBER_LIKE = re.compile(rf"\s*[(\\]?[{CURRENCY}]?(?:\.?[0-9]|[{VULGAR}√π(]|[^\W\d_](?![^\W\d_]))")
_PERCENT = re.compile(r"\s?%|\s?°(?:\s?[CF]\b)?")
_LARGER = (
    "hours? hrs? h minutes? mins? feet foot ft pounds? lbs? dollars? days? weeks? years? months? "
    "degrees km kilomet(?:er|re)s? met(?:er|re)s? m kg kilograms? gallons? quarts? yards? miles?"
)
_SMALLER = (
    "hours? hrs? h minutes? mins? min seconds? secs? s inch(?:es)? in ounces? oz cents? days? "
    "weeks? months? met(?:er|re)s? m centimet(?:er|re)s? cm grams? g pints? cups? quarts? feet "
    "foot ft"
)
_COMPOUND = re.compile(
    rf"[0-9]\s?-?(?:{_LARGER.replace(' ', '|')})(?:\s?,)?\s{{0,2}}(?:and\s)?[{CURRENCY}]?"
    rf"[0-9]+(?:\.[0-9]+)?\s?-?(?:{_SMALLER.replace(' ', '|')})\b"
    rf"|[{CURRENCY}][0-9]+\s(?:and\s)?[0-9]+\s?(?:cents?|¢)",
    re.IGNORECASE,
)


def compound_spans(text: str) -> list[tuple[int, int]]:
    """Places of quantities in two units (``5 hours 30 minutes``), whose numbers are parts."""
    return [match.span() for match in _COMPOUND.finditer(text)]


def sign_before(text: str, start: int) -> tuple[int, str]:
    r"""Where a number begins, sign and currency included, and its sign.

    Returns:
        ``+`` or ``-``; an empty text where a mark before it is an operator; ``word`` where the
        digits stand inside a word (``M2``, ``COVID-19``) and are no number.
    """
    if start and text[start - 1].isalpha():
        return start, "" if _command_before(text, start) else "word"
    while start and text[start - 1] in CURRENCY:
        start -= 1
    if not start or text[start - 1] not in "+-":
        return start, "+"
    place = start - 1
    last, word = text[place - 1 : place], text[place - 2 : place].isalpha() and place > 1
    if last.isalpha():
        return start, "word" if word and text[place] == "-" else ""
    if last and (last.isdigit() or last in ")]}%°!'+-×÷*^/_" or last in VULGAR):
        return start, ""
    sign = text[place]
    while place and text[place - 1] in CURRENCY:
        place -= 1
    return place, sign


def _command_before(text: str, place: int) -> bool:
    match = _WORD_BEFORE.search(text, max(0, place - 24), place)
    return match is not None and match["slash"] == "\\"


def left_is_free(text: str, start: int, value: Fraction | None) -> bool:
    """Whether what stands before a number leaves it whole."""
    if text[start : start + 1] in ("+", "-") and _ends_operand(text, _back(text, start)):
        return False  # "5 -3"
    around = text[max(0, start - 40) : start]
    if _JOINED_BEFORE.search(around):
        return False
    if value is not None and 0 < value < 1 and _AND_BEFORE.search(around):
        return False
    place = start
    for _ in range(_MAX_STEPS):
        gap = place
        place = _back(text, place)
        if not place or text[place - 1] == "\n":
            return True
        last = text[place - 1]
        if last in _OPENING or last in "*_`\"'#$":
            inner = _before_opening(text, place - 1, adjacent=gap == place)
            if inner is None:
                return False
            place = inner
            continue
        return _follows_freely(text, place, adjacent=gap == place)
    return False


def _follows_freely(text: str, place: int, *, adjacent: bool) -> bool:
    last = text[place - 1]
    if last in _OPERATORS or last.isdigit() or last in VULGAR:
        return False
    if last == "-":
        before = _back(text, place - 1)
        return not _ends_operand(text, before) and text[before - 1 : before] not in tuple("=([{<>:")
    if last == ":":
        return not (
            text[place - 2 : place - 1].isspace() and _ends_operand(text, _back(text, place - 1))
        )
    if last == "—":
        return adjacent and text[place - 2 : place - 1].isalnum()
    if last in _CLOSING or last in "%°!":
        return not adjacent
    if last.isalpha():
        return _word_is_free(text, place)
    return not (last == "." and adjacent)


def _word_is_free(text: str, place: int) -> bool:
    match = _WORD_BEFORE.search(text, max(0, place - 24), place)
    word = match["word"] if match else ""
    if match and match["slash"]:
        return word in _RELATIONS or word in _TRANSPARENT
    return word.lower() not in _FUNCTIONS and word not in ("x", "y", "z", "n")


def _before_opening(text: str, place: int, *, adjacent: bool) -> int | None:
    """Where to look on before an opening mark at `place`; None if it binds what is inside."""
    mark, before = text[place], text[place - 1 : place]
    if mark in "\"'`#$":
        return place
    if mark in "*_":
        while place and text[place - 1] == mark:
            place -= 1
        outer = _back(text, place)
        operand = _ends_operand(text, outer) and (mark == "*" or outer == place)
        return None if operand else place
    if before and before in "^_√)]}":
        return None
    command = _WORD_BEFORE.search(text, max(0, place - 24), place)
    if command and command["slash"]:
        return command.start() if command["word"] in _TRANSPARENT else None
    if command:
        called = mark == "(" and (
            len(command["word"]) == 1 or command["word"].lower() in _FUNCTIONS
        )
        return None if called else place
    return None if before.isdigit() else place


def right_is_free(text: str, end: int, plain: bool) -> bool:
    """Whether what stands after a number leaves it whole.

    Args:
        text: The text.
        end: Where the number ends.
        plain: It is digits alone, so that dots after it are an ellipsis of the sentence.
    """
    if percent := _PERCENT.match(text, end):
        end = percent.end()
    if _JOINED_AFTER.match(text, end):
        return False
    rest = text[end : end + 8]
    if rest.startswith((".\\", ".(", "..")) or rest.startswith("'\\"):
        return rest.startswith("..") and plain and not rest[2:3].isdigit()
    if letters := _LETTERS.match(text, end):
        word = letters[0]
        longer = len(word) >= 4 and word.islower() and word not in _FUNCTIONS
        if word not in _UNITS and not longer:
            return False
        end = letters.end()
        if text[end : end + 1] in ("^", "²", "³", "/"):
            return True
    return _goes_on_freely(text, end)


def _goes_on_freely(text: str, end: int) -> bool:
    """Whether no operator, factor or further number follows, here or behind closing brackets."""
    place, gap, closed = end, end, False
    for _ in range(_MAX_STEPS):
        gap = place
        while text[place : place + 1] in (" ", "\t", SPACE):
            place += 1
        if text[place : place + 1] not in tuple(_CLOSING):
            break
        place, closed = place + 1, True
        if text[place : place + 1] == "{":
            return False
    mark, spaced = text[place : place + 1], place > gap
    if not mark or mark == "\n":
        return True
    if mark.isdigit() or mark in VULGAR or (mark == "." and text[place + 1 : place + 2].isdigit()):
        return closed and spaced
    if mark in _BINDING:
        return _binds_nothing(text, place, spaced=spaced)
    if mark == "\\":
        command = _LETTERS.match(text, place + 1)
        return command is None or command[0] in _RELATIONS or command[0] in _TRANSPARENT
    if spaced and mark in "xyzn":
        return closed or text[place + 1 : place + 2].isalnum()
    return True


_BINDING = "×÷^√±π∞⁰¹²³⁴⁵⁶⁷⁸⁹⁻+-*/:({_!"


def _binds_nothing(text: str, place: int, *, spaced: bool) -> bool:
    """Whether a mark that could be an operator is none here."""
    mark, after = text[place], text[place + 1 : place + 2]
    match mark:
        case "+":
            return after.isspace() and not _NUMBER_LIKE.match(text, place + 1)
        case "-" | "*":
            while text[place : place + 1] == mark:
                place += 1
            return not _NUMBER_LIKE.match(text, place)
        case "/":
            return len((_LETTERS.match(text, place + 1) or [""])[0]) >= 2
        case ":":
            return not (spaced and text[place + 1 : place + 3].strip()[:1].isdigit())
        case "(":
            return spaced or not _NUMBER_LIKE.match(text, place)
        case "_":
            return spaced or not after.isalnum()
        case "!":
            return not after.isalnum()
        case _:
            return False


def _back(text: str, place: int) -> int:
    """Skip blanks to the left, not line ends."""
    while place and text[place - 1] in f" \t{SPACE}":
        place -= 1
    return place


def _ends_operand(text: str, place: int) -> bool:
    """Whether a number, a variable or a closing bracket ends at `place`."""
    last = text[place - 1 : place]
    if not last:
        return False
    if last.isdigit() or last in _CLOSING or last in "π∞°%" or last in VULGAR:
        return True
    lone = last.isalpha() and not text[place - 2 : place - 1].isalpha()
    return lone and last not in "aAI" and text[place - 2 : place - 1] != "'"
