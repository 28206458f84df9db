from difflib import SequenceMatcher
from itertools import pairwise, product

import pytest

from cream.algorithms.alignment import (
    Span,
    TokenLabels,
    distance,
    spans,
    text_spans,
    token_labels,
    token_offsets,
    units,
)

WRONG = "57 + 3 = 61 , 61 - 6 = 55 . Answer: 55 ."
RIGHT = "57 + 3 = 60 , 60 - 6 = 54 . Answer: 54 ."


def textbook(a, b):
    """Levenshtein as it is taught, cell by cell."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def applied(a, b, changed):
    """The original with every span replaced by what the edited one has there."""
    out, at = [], 0
    for span in changed:
        out += [*a[at : span.i0], *b[span.j0 : span.j1]]
        at = span.i1
    return [*out, *a[at:]]


def test_worked_sum_by_hand():
    """Four numbers are replaced: words 4, 6, 10 and 13."""
    wrong, right = WRONG.split(), RIGHT.split()
    assert distance(wrong, right) == 4
    assert spans(wrong, right) == tuple(Span(k, k + 1, k, k + 1) for k in (4, 6, 10, 13))


def test_of_two_minimal_alignments_the_one_that_keeps_more_is_taken():
    """a b c d to a x b d: inserting x and deleting c keeps b; substituting b and c does not."""
    assert distance("abcd", "axbd") == 2
    assert spans("abcd", "axbd") == (Span(1, 1, 1, 2), Span(2, 3, 3, 3))


def test_levenshtein_beats_difflib():
    """cab to aac: two substitutions; difflib keeps "a" of the middle and moves the rest, 2 + 2."""
    moved = SequenceMatcher(a="cab", b="aac", autojunk=False).get_opcodes()
    cost = sum(i1 - i0 + j1 - j0 for tag, i0, i1, j0, j1 in moved if tag != "equal")
    assert (distance("cab", "aac"), cost) == (2, 4)
    assert spans("cab", "aac") == (Span(0, 1, 0, 1), Span(2, 3, 2, 3))


def test_ties_substitute_first_and_then_stand_leftmost():
    """ab to c: c replaces a and b goes, or a goes and c replaces b. aab to ab: either a goes."""
    assert spans("ab", "c") == (Span(0, 2, 0, 1),)
    assert spans("aab", "ab") == (Span(0, 1, 0, 0),)
    assert spans("xab", "xxab") == (Span(0, 0, 0, 1),)


def test_every_short_pair_is_minimal_and_its_spans_make_one_of_the_other():
    words = ["".join(w) for n in range(5) for w in product("ab", repeat=n)]
    for a, b in product(words, words):
        changed = spans(a, b)
        assert distance(a, b) == textbook(a, b)
        assert applied(a, b, changed) == [*b]
        assert all(s.i1 < t.i0 for s, t in pairwise(changed))
        kept = len(a) - sum(s.i1 - s.i0 for s in changed)
        assert kept == len(b) - sum(s.j1 - s.j0 for s in changed)


def test_equal_and_empty_texts():
    assert spans("same", "same") == ()
    assert spans("", "ab") == (Span(0, 0, 0, 2),)
    assert spans("ab", "") == (Span(0, 2, 0, 0),)


def test_words_are_told_in_characters():
    """Words: "cat" becomes "cut" as a whole; characters: its "a" alone."""
    assert units("a cat, 12 ", "word") == ["a", " ", "cat", ",", " ", "12", " "]
    assert text_spans("a cat", "a cut", "word") == (Span(2, 5, 2, 5),)
    assert text_spans("a cat", "a cut", "char") == (Span(3, 4, 3, 4),)


PIECES = ["the ", "c", "at", " \u00e9", "!", ""]
"""Texts of ids; the last is an end token."""


def decode(ids):
    return "".join(PIECES[i] for i in ids)


def test_offsets_of_tokens():
    ids = (0, 1, 2, 4, 5)
    assert token_offsets(ids, decode(ids), decode) == ((0, 4), (4, 5), (5, 7), (7, 8), (8, 8))


def test_a_token_with_a_part_of_a_character_stands_for_the_whole_of_it():
    """The two bytes of an e with an accent are two tokens; alone, the first decodes to a sign that
    is not in the text."""
    raw = {0: b"a", 1: "\u00e9".encode()[:1], 2: "\u00e9".encode()[1:], 3: b"b"}
    ids = (0, 1, 2, 3)

    def decode_bytes(some):
        return b"".join(raw[i] for i in some).decode(errors="replace")

    found = token_offsets(ids, decode_bytes(ids), decode_bytes)
    assert found == ((0, 1), (1, 2), (1, 2), (2, 3))


@pytest.mark.parametrize(("blame", "named"), [("next", True), ("none", False)])
def test_an_insertion_blames_the_token_that_stood_in_its_place_or_none(blame, named):
    """ "a c" to "a b c": "b " is new; in the original "c" came too early, or nothing is wrong."""
    changed = text_spans("a c", "a b c", "word")
    original, edited = [(0, 1), (1, 2), (2, 3), (3, 3)], [(k, k + 1) for k in range(5)] + [(5, 5)]
    labels = token_labels(changed, original, edited, insertion_blame=blame)
    assert sum(labels.original) == int(named)
    assert sum(labels.edited) == 2
    assert not labels.edited[-1]


def test_what_is_missing_at_the_end_blames_the_end_token():
    labels = token_labels(
        text_spans("ab", "abc"), [(0, 2), (2, 2)], [(0, 2), (2, 3), (3, 3)], insertion_blame="next"
    )
    assert labels == TokenLabels((False, True), (False, True, False))


def test_a_deletion_leaves_nothing_to_praise():
    labels = token_labels(
        text_spans("abc", "ac"), [(0, 1), (1, 2), (2, 3)], [(0, 1), (1, 2)], insertion_blame="next"
    )
    assert labels == TokenLabels((False, True, False), (False, False))


def test_a_change_inside_a_token_touches_the_whole_token_and_no_neighbour():
    """ "cat" to "cut" retokenises: ca|t against cu|t. On ids both could differ; "t" is kept."""
    labels = token_labels(
        text_spans("cat", "cut"), [(0, 2), (2, 3)], [(0, 2), (2, 3)], insertion_blame="next"
    )
    assert labels == TokenLabels((True, False), (True, False))
