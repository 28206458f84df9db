"""Words for a terminal: times, and texts of models, data and files that cannot steer it.

What may be shown is decided here alone (`escaped`), for the terminal and for the page.
"""

from __future__ import annotations

import unicodedata

SHOWN_AS_IS = {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No"}
SHOWN_AS_IS |= {"Pc", "Pd", "Ps", "Pe", "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs"}
"""Unicode categories of what a terminal only draws. The others steer it (Cc), reorder or hide text
(Cf: among them the marks that make text run from right to left), break lines (Zl, Zp), or are no
characters (Cs, Co, Cn)."""
ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


def printable(text: str, limit: int | None = None) -> str:
    """Text on one line with every character that could act on a terminal written as an escape.

    A backslash is doubled, so that an escape in the result always stands for such a character.

    Args:
        text: Untrusted.
        limit: Most characters of the result; longer ones end in ``…``.
    """
    shown = text if _is_plain(text) else "".join(map(_escaped, text))
    return shown if limit is None or len(shown) <= limit else shown[: max(limit - 1, 0)] + "…"


def readable(text: str) -> str:
    """A message as it is, line breaks included, but for characters that could act on a terminal.

    For sentences with untrusted parts, such as errors; where nothing may be mistaken for something
    else, see `printable`.
    """
    if all(map(str.isprintable, text.split("\n"))):
        return text
    return "".join(c if c == "\n" else escaped(c) for c in text)


def _is_plain(text: str) -> bool:
    return text.isprintable() and "\\" not in text  # quick: most texts are


def _escaped(character: str) -> str:
    if character in ESCAPES:
        return ESCAPES[character]
    return "\\\\" if character == "\\" else escaped(character)


def escaped(character: str) -> str:
    """The character, or its code as an escape if a terminal or page would do more than draw it."""
    if unicodedata.category(character) in SHOWN_AS_IS:
        return character
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def duration(seconds: float) -> str:
    """Seconds as people say them: ``85 s``, ``4 min``, ``2 h 05 min``."""
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 1 else f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(count: int | float) -> str:
    """Bytes as people say them."""
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
