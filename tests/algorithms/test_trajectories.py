from fractions import Fraction
from itertools import pairwise, product

import numpy as np
import pytest
from signed_trajectories import FIVE, trajectory

from cream.algorithms.trajectories import (
    Action,
    Grammar,
    TrajectoryCounts,
    count,
    gain_of_one_retry,
    segment,
    stop,
    token_places,
)
from cream.errors import TallyError

GRAMMAR = Grammar(
    "Wait, let me recheck my solution.",
    "Let me try again.",
    ("the answer is correct",),
    ("the answer is incorrect",),
)
CHECK, RETRY = GRAMMAR.recheck, GRAMMAR.retry


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("7", ["7"]),
        ("", [""]),
        (f"7. {CHECK} No.\n{RETRY} 8", ["7. ", f"{CHECK} No.\n", f"{RETRY} 8"]),
        # Either phrase where it cannot follow is text: a retry in a solution, a recheck in a check.
        (f"7. {RETRY} 8. {CHECK} ok", [f"7. {RETRY} 8. ", f"{CHECK} ok"]),
        (f"7. {CHECK} {CHECK} ok", ["7. ", f"{CHECK} {CHECK} ok"]),
        (f"7. {CHECK} {RETRY} {RETRY} 8", ["7. ", f"{CHECK} ", f"{RETRY} {RETRY} 8"]),
        # "Wait," alone, a phrase that was cut off, one in other case, one in a word.
        ("Wait, 3 + 4 is 7", ["Wait, 3 + 4 is 7"]),
        (f"7. {CHECK[:-4]}", [f"7. {CHECK[:-4]}"]),
        (f"7. {CHECK.lower()}", [f"7. {CHECK.lower()}"]),
        # Other white space.
        (
            "7.\nWait,  let me\nrecheck my solution. No. Let me try\n\nagain.\n\n8",
            ["7.\n", "Wait,  let me\nrecheck my solution. No. ", "Let me try\n\nagain.\n\n8"],
        ),
        # Nothing has been solved yet.
        (f" {CHECK} 7", [f" {CHECK} 7"]),
        (f"{CHECK} 7. {CHECK} ok", [f"{CHECK} 7. ", f"{CHECK} ok"]),
    ],
)
def test_parts_tile_the_text(text, parts):
    found = segment(text, GRAMMAR)
    assert [text[p.start : p.end] for p in found] == parts
    assert [p.kind for p in found] == ["solve", "verify", "solve"][: len(found)]
    assert found[0].start == 0
    assert found[-1].end == len(text)
    assert all(a.end == b.start for a, b in pairwise(found))
    for part in found[1:]:
        phrase = CHECK if part.kind == "verify" else RETRY
        assert text[part.start : part.opened].split() == phrase.split()


@pytest.mark.parametrize(
    ("check", "verdict", "parse"),
    [
        ("Therefore, the answer is correct.", True, "ok"),
        ("Therefore, THE ANSWER\nis incorrect.", False, "ok"),
        ("The answer is correct. Yes, the answer is correct", True, "ok"),
        ("The answer is correct? No, the answer is incorrect.", None, "ambiguous"),
        ("It cannot be verified.", None, "missing"),
        ("The answer is correctly rounded.", None, "missing"),
        ("the answer is incorrectness", None, "missing"),
        ("", None, "missing"),
    ],
)
def test_a_verdict_is_read_or_has_a_reason(check, verdict, parse):
    assert GRAMMAR.verdict(check) == (verdict, parse)


def test_a_phrase_within_another_is_not_read_in_scripts_without_spaces():
    """正确 is right, 不正确 is wrong and holds it; верно and неверно part by letters alone."""
    chinese = Grammar("等等", "再试一次", ("正确",), ("不正确",))
    assert chinese.verdict("所以答案不正确。") == (False, "ok")
    assert chinese.verdict("所以答案正确。") == (True, "ok")
    russian = Grammar("Проверю.", "Ещё раз.", ("верно",), ("ошибка",))
    assert russian.verdict("Ответ неверно записан") == (None, "missing")
    assert russian.verdict("Верно!") == (True, "ok")
    assert [p.kind for p in segment("七。等等,不对。再试一次八", chinese)] == [
        "solve",
        "verify",
        "solve",
    ]


def test_places_of_characters_among_tokens():
    """Tokens ab|c|(bytes of an emoji)|Wa|it|end. A place in a token is that token's; the place
    after the text is that after the end token, which shows nothing."""
    pieces = [b"ab", b"c", *(bytes([b]) for b in "😀".encode()), b"Wa", b"it", b""]

    def decode(ids):
        return b"".join(pieces[i] for i in ids).decode("utf-8", errors="replace")

    ids = list(range(len(pieces)))
    assert decode(ids) == "abc😀Wait"
    # a, b, c, the emoji, W, a, i, t, the end
    assert token_places(range(9), ids, decode) == (0, 0, 1, 5, 6, 6, 7, 7, 9)
    assert token_places([0], (), decode) == (0,)


def test_spans_tile_the_ids_whatever_the_tokenizer():
    """Every way to cut a text into tokens of up to nine characters, at random: spans tile the ids,
    and every token belongs to the part of its last character."""
    text = f"It is 7. {CHECK} No, the answer is incorrect. {RETRY} It is 8."
    parts = segment(text, GRAMMAR)
    draw = np.random.default_rng(0)
    for _ in range(50):
        cuts, place = [], 0
        while place < len(text):
            place += int(draw.integers(1, 10))
            cuts.append(text[len("".join(cuts)) : place])
        cuts.append("")
        starts = token_places(
            [p.start for p in parts],
            range(len(cuts)),
            lambda ids, cuts=cuts: "".join(cuts[i] for i in ids),
        )
        assert starts[0] == 0
        assert sorted(starts) == list(starts)
        for token, end in enumerate(np.cumsum([len(c) for c in cuts[:-1]])):
            owner = max(i for i, p in enumerate(parts) if p.start < end)
            assert max(i for i, s in enumerate(starts) if s <= token) == owner


def test_figures_of_the_five_by_hand():
    """Nine checks, seven true; five wrong solutions, four judged so; four verdicts "correct", three
    true; right solutions 3 of 4: (.75 + .8) / 2 = .775. First right 2 of 5, last 3; two of three
    wrong first answers mended, one of two right ones spoilt: .6 * 2/3 - .4 / 2 = .2."""
    found = count(map(trajectory, FIVE))
    figures = found.figures
    expected = {
        "first": 0.4,
        "last": 0.6,
        "verdict_accuracy": 7 / 9,
        "error_recall": 4 / 5,
        "confirmation": 3 / 4,
        "balanced": 0.775,
        "youden": 0.55,
        "mended": 2 / 3,
        "spoilt": 1 / 2,
        "retry": 2 / 4,
        "unread": 0.0,
    }
    assert figures == pytest.approx(expected)
    assert (found.total, found.solves, found.after_stop) == (5, 9, 0)
    p, last = Fraction(2, 5), Fraction(3, 5)
    assert last - p == (1 - p) * Fraction(2, 3) - p * Fraction(1, 2)


def test_the_identity_holds_on_all_trajectories_of_up_to_five_actions():
    """last - first = (1 - p) ICR - p CIR, in fractions, for every subset that is drawn; counts that
    break it are refused."""
    every = ["".join(signs) for n in range(1, 6) for signs in product("+-", repeat=n)]
    draw = np.random.default_rng(1)
    for _ in range(200):
        found = count(trajectory(every[i]) for i in draw.integers(0, len(every), 7))
        p = Fraction(found.first_right, found.total)
        wrong = found.total - found.first_right
        mended = Fraction(found.mended, wrong) if wrong else 0
        spoilt = Fraction(found.spoilt, found.first_right) if found.first_right else 0
        assert Fraction(found.last_right, found.total) - p == (1 - p) * mended - p * spoilt
    values = dict.fromkeys(TrajectoryCounts.__dataclass_fields__, 0)
    with pytest.raises(TallyError, match="1 times more often than the first, and 0 were mended"):
        TrajectoryCounts(**values | {"total": 1, "last_right": 1})


def test_nothing_to_count_is_no_share():
    figures = count([trajectory("-")]).figures
    assert figures["last"] == 0
    assert figures["mended"] == 0
    assert {figures[name] for name in ("spoilt", "balanced", "youden", "retry", "unread")} == {None}


def test_checks_without_a_verdict_are_no_true_ones():
    """A wrong solution, unread: recall 0 of 1, verdicts 0 of 1."""
    unread = [*trajectory("-"), Action("verify", 1, 2, "missing", None, None, False)]
    figures = count([unread]).figures
    assert (figures["error_recall"], figures["verdict_accuracy"], figures["unread"]) == (0, 0, 1)


def test_what_stands_after_a_confirmed_answer_is_counted():
    """ "++" ends it; "+ + + +" goes on with two; a check that finds fault ends nothing."""
    assert [stop(trajectory(s)) for s in ("++", "++++", "-+++", "--+", "+")] == [2, 2, 4, 2, 1]
    assert count(map(trajectory, ("++++", "--+"))).after_stop == 3


def worth(p, b, c, rounds):
    """Exact last accuracy, share mended and spoilt, and mean solves, by enumeration of rounds."""
    last = mended = spoilt = solves = 0.0
    # State: probability, first right (or None before the first).
    states = {None: 1.0}
    for number in range(rounds):
        following = {}
        for first, mass in states.items():
            for right, chance in ((True, p), (False, 1 - p)):
                here, start = mass * chance, right if first is None else first
                solves += here
                goes_on = (1 - b if right else 1 - c) if number < rounds - 1 else 0.0
                over = here * (1 - goes_on)
                last += over * right
                mended += over * (right and not start)
                spoilt += over * (start and not right)
                following[start] = following.get(start, 0.0) + here * goes_on
        states = following
    return last, mended / (1 - p), spoilt / p, solves


def test_closed_form_of_one_retry():
    """p = q = .4, b = .7, c = .5: last .448, mended .2, spoilt .18, gain .048 = .4 * .6 * .2."""
    last, mended, spoilt, solves = worth(0.4, 0.7, 0.5, rounds=2)
    assert (last, mended, spoilt) == pytest.approx((0.448, 0.2, 0.18))
    assert solves == pytest.approx(1.42)
    assert gain_of_one_retry(0.4, 0.4, 0.7, 0.5) == pytest.approx(0.048)
    assert gain_of_one_retry(0.4, 0.4, 0.7, 0.5) == pytest.approx(0.4 * 0.6 * (0.7 - 0.5))
    step = 1e-6
    by_b = gain_of_one_retry(0.4, 0.4, 0.7 + step, 0.5) - gain_of_one_retry(0.4, 0.4, 0.7, 0.5)
    by_c = gain_of_one_retry(0.4, 0.4, 0.7, 0.5 + step) - gain_of_one_retry(0.4, 0.4, 0.7, 0.5)
    assert (by_b / step, by_c / step) == pytest.approx((0.24, -0.24))
    # Another second try: .6 * .5 * .1 - .4 * .3 * .9 = -.078.
    assert gain_of_one_retry(0.4, 0.1, 0.7, 0.5) == pytest.approx(-0.078)


def test_closed_form_without_a_limit():
    """last = p b / (p b + (1 - p) c) = .482759, which is CP; solves 1 / (.28 + .3) = 1.724."""
    last, _, _, solves = worth(0.4, 0.7, 0.5, rounds=200)
    assert last == pytest.approx(0.28 / 0.58)
    assert last == pytest.approx(0.482759, abs=1e-6)
    assert solves == pytest.approx(1 / 0.58)
    assert solves == pytest.approx(1.724, abs=1e-3)


def test_accuracy_of_verdicts_does_not_say_whether_checking_helps():
    """At p = .6 "always correct" and (b, c) = (.6, .4) are both right in .6 of checks."""
    p = 0.6
    for b, c, gain in ((1.0, 1.0, 0.0), (0.6, 0.4, 0.048)):
        assert p * b + (1 - p) * (1 - c) == pytest.approx(0.6)
        assert gain_of_one_retry(p, p, b, c) == pytest.approx(gain)
