"""Numbers are read whole or not at all: a table of spellings, both directions."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cream.algorithms.numbers import canonical, find_numbers, normalised, whole_number

READ = [
    ("18", "18"),
    ("-7", "-7"),
    ("\u22127", "-7"),
    ("\u20137", "-7"),
    ("+7", "7"),
    ("x = -3", "-3"),
    ("the answer is -3", "-3"),
    ("(-3)", "-3"),
    ("$-5$", "-5"),
    ("-$5", "-5"),
    ("$-5", "-5"),
    ("$1,234.50", "1234.5"),
    ("1,234", "1234"),
    ("1,234,567", "1234567"),
    ("12,500", "12500"),
    (r"12,\,500", "12500"),
    ("5²", "25"),
    ("12\xa0500", "12500"),
    ("12\u202f500", "12500"),
    ("12\u2009500", "12500"),
    ("1,25,000", "125000"),
    ("12,34,567", "1234567"),
    ("12'500", "12500"),
    ("12’500", "12500"),
    ("12_500", "12500"),
    ("12{,}500", "12500"),
    (r"12\,500", "12500"),
    (r"12,\!500", "12500"),
    (r"12\ 500", "12500"),
    ("12~500", "12500"),
    ("3.14", "3.14"),
    (".5", "0.5"),
    ("0.5", "0.5"),
    ("-.5", "-0.5"),
    ("18.00", "18"),
    ("18.", "18"),
    ("18,", "18"),
    ("18!", "18"),
    ("2.5e3", "2500"),
    ("2.5E+3", "2500"),
    ("1e16", "10000000000000000"),
    ("1e-3", "0.001"),
    (r"2.5 \times 10^3", "2500"),
    (r"2.5\times10^{3}", "2500"),
    ("2.5×10³", "2500"),
    ("2.5 * 10^3", "2500"),
    ("3 x 10^8", "300000000"),
    (r"6.02 \cdot 10^{23}", "602000000000000000000000"),
    ("10^6", "1000000"),
    ("2^{10}", "1024"),
    ("2**10", "1024"),
    ("10^{-3}", "0.001"),
    ("10⁶", "1000000"),
    ("3/4", "3/4"),
    ("-3/4", "-3/4"),
    ("1/2", "0.5"),
    ("1/3", "1/3"),
    (r"\frac{3}{4}", "0.75"),
    (r"\frac34", "0.75"),
    (r"\dfrac{3}{4}", "0.75"),
    (r"\tfrac{1}{3}", "1/3"),
    (r"-\frac{1}{2}", "-0.5"),
    (r"\frac{-1}{2}", "-0.5"),
    (r"\frac{1,000}{3}", "1000/3"),
    (r"1\frac{1}{2}", "1.5"),
    ("1\x1c\\frac{1}{2}", "1.5"),  # white space to a pattern, and not to int()
    (r"-1\frac{1}{2}", "-1.5"),
    ("1 1/2", "1.5"),
    ("3 3/4 cups", "3.75"),
    ("½", "0.5"),
    ("1½", "1.5"),
    ("1 ½", "1.5"),
    ("50%", "50"),
    (r"50\%", "50"),
    ("50 %", "50"),
    ("12.5 percent", "12.5"),
    ("90°", "90"),
    (r"90^\circ", "90"),
    (r"90^{\circ}", "90"),
    ("12kg", "12"),
    ("12 kg", "12"),
    ("50 km/h", "50"),
    ("5m^2", "5"),
    ("5 m²", "5"),
    ("18 dollars", "18"),
    ("18-year-old", "18"),
    ("5th", "5"),
    ("€18", "18"),
    ("18€", "18"),
    ("£1,000", "1000"),
    (r"\$18", "18"),
    ("$18$", "18"),
    (r"\(18\)", "18"),
    (r"\[18\]", "18"),
    ("**18**", "18"),
    ("*18*", "18"),
    ("_18_", "18"),
    ("`18`", "18"),
    ('"18"', "18"),
    ("[18]", "18"),
    ("{18}", "18"),
    (r"\boxed{18}", "18"),
    (r"\boxed{-18}", "-18"),
    (r"\boxed{\text{18}}", "18"),
    (r"\text{18}", "18"),
    (r"\mathbf{18}", "18"),
    (r"\boxed{18\text{ dollars}}", "18"),
    (r"\boxed{\$1{,}250}", "1250"),
    (r"\boxed{\frac{3}{4}}", "0.75"),
    (r"\boxed{\dfrac{12}{5}}", "2.4"),
    (r"\boxed{12{,}500}", "12500"),
    ("2 million", "2000000"),
    ("2.5 million", "2500000"),
    ("3 hundred", "300"),
    ("1.5 billion dollars", "1500000000"),
    ("x = 5", "5"),
    ("x=-5", "-5"),
    ("5 + 3 = 8", "8"),
    ("5*3=15", "15"),
    ("<<5*3=15>>15", "15"),
    ("So she pays 5 * 3.6 = $18.00.", "18"),
    ("first 4, then 5, so 9", "9"),
    ("In 2019, 45 people", "45"),
    ("Total: 18", "18"),
    ("Total - 18", "18"),
    ("Total \u2013 18", "18"),
    ("the answer—18", "18"),
    ("- 18", "18"),
    ("Step 1: 18", "18"),
    ("(a) 18", "18"),
    ("\uff11\uff18", "18"),
    ("\u0661\u0668", "18"),
    ("about 18 eggs each", "18"),
    ("~18", "18"),
    ("≈ 18", "18"),
    ("x > 5", "5"),
    ("18 = x", "18"),
    ("18 - that is all", "18"),
    (r"x = 5 \text{ cm}", "5"),
    (r"\approx 5", "5"),
    ("007", "7"),
    ("he paid $5/day", "5"),
    ("5 apples (red)", "5"),
    ("0", "0"),
    ("-0", "0"),
    ("100.0", "100"),
    ("18;", "18"),
    ("18:", "18"),
    ("the sum is 18, because", "18"),
    ("| 18 |", "18"),
    ("1.", "1"),
    ("5 and not", "5"),
    ("18 (eighteen)", "18"),
]
"""(text, value of its last number)"""

REFUSED = [
    "3,5",
    "10,20",
    "1,2345",
    "1.234,56",
    "12 500",
    "12 50",
    "1.2.3",
    "10.2.3",
    "192.168.0.1",
    "3:45",
    "3:4",
    "3 : 4",
    "12:30 pm",
    "2024-01-05",
    "01/02/2024",
    "1/2/3",
    "1/0",
    r"\frac{1}{0}",
    "555-1234",
    "5-3",
    "5\u20133",
    "5 - 3",
    "5 -3",
    "18-20",
    "18 to 20",
    "4 or 5",
    "3 out of 5",
    "5+3",
    "5 + 3",
    "5*3",
    "5 * 3",
    "5×3",
    r"5 \times 3",
    r"5 \div 3",
    "5 ± 2",
    r"5 \pm 2",
    "3x",
    "3x+1",
    "3x + 1",
    "3 x + 1",
    "x + 3",
    "x - 3",
    "x-3",
    "2y",
    "2n",
    r"2\pi",
    r"2 \pi",
    "2π",
    r"\frac{\pi}{2}",
    r"\frac{2\pi}{3}",
    r"\pi/2",
    r"\frac{x}{2}",
    r"\frac{\sqrt{3}}{2}",
    r"\frac{1}{\sqrt{2}}",
    r"\sqrt{2}",
    r"\sqrt 2",
    "√2",
    r"3\sqrt{2}",
    r"3 \sqrt{2}",
    "2^{x}",
    "x^2",
    "x^{2}",
    "x_1",
    "x_{12}",
    "e^{3}",
    "10^{10000}",
    r"\log 5",
    r"\log_2 8",
    r"\sin 30",
    "sin(30)",
    "log(5)",
    "f(3)",
    "3(4)",
    "3(x+1)",
    "(3)(4)",
    "(3)/(4)",
    "5k",
    "5K",
    "2M",
    "3B",
    "0x1F",
    "3D",
    "5e",
    "1e5x",
    "2i",
    "3+4i",
    "0.333...",
    "0.333…",
    r"0.\overline{3}",
    "0.(3)",
    "5 and 1/2",
    "5 and a half",
    "5 1/2 1/3",
    "2 24/7",
    "5 hours and 30 minutes",
    "5 hours 30 minutes",
    "5 feet 10 inches",
    "$5 and 50 cents",
    "5'10\"",
    "10 20 30",
    "3 million 500 thousand",
    "= - 18",
    "1e9999",
    "3 point 5",
    "M2",
    "COVID-19",
    "F-16",
    "x2",
    "version 10.2.3",
    "eighteen",
    "v1.2",
    "²",
    r"\infty",
    r"2\infty",
    r"5\cdot x",
    "5/x",
    "x/5",
    "2/ 3",
    "{2}{3}",
    r"\binom{5}{2}",
    "5 mod 3",
    "5 choose 3",
    "7!3",
]
"""Texts whose digits are a part of something else, could mean two things, or are no number."""


def values(text):
    return [found.value for found in find_numbers(normalised(text))]


@pytest.mark.parametrize(("text", "value"), READ)
def test_read_whole(text, value):
    assert values(text)[-1] == Fraction(value)


@pytest.mark.parametrize("text", REFUSED)
def test_not_read_at_all(text):
    assert {*values(text)} <= {None}


@pytest.mark.parametrize("text", REFUSED)
def test_not_read_in_a_sentence_either(text):
    """A fragment is no more a number because words stand around it."""
    assert {*values(f"So the result is {text} exactly.")} <= {None}
    assert {*values(rf"\\boxed{{{text}}}")} <= {None}


def test_the_table_is_large_enough():
    assert len(READ) >= 100
    assert len(REFUSED) >= 100
    assert len({text for text, _ in READ} | {*REFUSED}) == len(READ) + len(REFUSED)


@given(st.fractions())
def test_the_one_spelling_of_a_value_is_read_as_that_value(value):
    assert whole_number(canonical(value)) == value


@given(st.integers(-(10**12), 10**12), st.integers(0, 10**6))
def test_groups_and_decimals_do_not_change_a_value(whole, decimals):
    value = Fraction(f"{whole}.{decimals:06d}")
    for mark in (",", "\u00a0", "\u202f", "'", "_", "{,}", r"\,"):
        written = f"{whole:,}".replace(",", mark) + f".{decimals:06d}"

        assert values(f"it is {written} now") == [value]
        assert values(rf"\boxed{{{written}}}") == [value]


@given(st.text(alphabet="0123456789.,/-+ ex^{}()\\$%:_*=\u2212\u00bd\n", max_size=60))
def test_whatever_is_written_reading_ends_in_values_in_order(text):
    """No exception, no overlap, and every value is inside the text it was read from."""
    plain = normalised(text)
    end = 0
    for found in find_numbers(plain):
        assert end <= found.start < found.end <= len(plain)
        assert found.written == plain[found.start : found.end]
        end = found.end


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(18, "18"), (-18, "-18"), (Fraction(5, 2), "2.5"), (Fraction(-1, 3), "-1/3"), (0, "0")],
        *[(Fraction(1, 8), "0.125"), (Fraction(1, 1000), "0.001"), (Fraction(1, 35), "1/35")],
    ],
)
def test_one_spelling(value, text):
    assert canonical(Fraction(value)) == text


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[("42", 42), (" 42.0 ", 42), ("-7", -7), ("1/2", Fraction(1, 2)), ("1,000", 1000)],
        *[("42 apples", None), ("40 2", None), ("", None), ("2x", None), ("x = 42", None)],
    ],
)
def test_a_text_that_is_one_number(text, value):
    assert whole_number(text) == value


NOISE = ["*", " ", "1", "1,", "-", "(", "\n", "1 ", "\\frac{", "{", "}", "1/", "5 hours ", "_", "x"]


@pytest.mark.parametrize("noise", [*NOISE, "$", "\u00bd", "^", "1\u00a0", "\\", "'", "10^", ")"])
def test_a_collapsed_completion_is_read_in_linear_steps(noise):
    """As many places as there are digits at most; hypothesis above covers their order."""
    text = normalised("Answer: " + noise * 2000 + "x")

    assert len(find_numbers(text)) <= sum(c.isdigit() or c == "\u00bd" for c in text)
