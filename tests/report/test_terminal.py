"""Model output cannot steer a terminal, and times read like times."""

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from cream.report.terminal import SHOWN_AS_IS, duration, printable


def test_control_sequences_become_text():
    """Clear screen, a title, a backspace, an 8-bit CSI, and text made to run backwards."""
    hostile = "a\x1b[2J\x1b]0;t\x07\b\x9b31m\u202egpj.exe\r\n\t"

    assert printable(hostile) == ("a\\x1b[2J\\x1b]0;t\\x07\\x08\\x9b31m\\u202egpj.exe\\r\\n\\t")


def test_letters_of_all_languages_and_signs_stay():
    assert printable("Grüße, 你好 → 3×4 🙂 é") == "Grüße, 你好 → 3×4 🙂 é"


def test_a_written_escape_is_told_from_a_real_one():
    assert printable("\\n") == "\\\\n"
    assert printable("\n") == "\\n"


def test_long_text_is_cut_at_the_limit_and_says_so():
    assert printable("abcdef", limit=4) == "abc…"
    assert printable("abcd", limit=4) == "abcd"


@given(st.text())
def test_nothing_but_visible_characters_comes_out(text: str):
    shown = printable(text)

    assert all(unicodedata.category(character) in SHOWN_AS_IS for character in shown)


def test_times_read_like_times():
    told = [duration(s) for s in (0.25, 7.4, 99.0, 100.0, 3570.0, 3600.0, 7500.0)]

    assert told == ["0.2 s", "7 s", "99 s", "2 min", "1 h 00 min", "1 h 00 min", "2 h 05 min"]
