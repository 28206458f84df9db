"""Key phrases by hand, their removal by place, and what the length alone tells."""

from __future__ import annotations

import numpy as np
import pytest

from cream.algorithms.keyphrases import (
    key_phrases,
    length_rule_accuracy,
    removed_counts,
    without,
)

STOP = {"the", "of", "is", "a", "on"}
TEXT = "The capital of France is Paris, a large city on the Seine river. The river is long."


def named(text: str, stop: set[str] = STOP) -> list[tuple[str, float]]:
    return [(text[p.start : p.end], p.score) for p in key_phrases(text, stop)]


def test_scores_are_degree_over_frequency_summed_over_the_words():
    """river: frequency 2, degree 2 + 1 = 3, so 3/2; Seine 2/1; large and city 2/1 each."""
    assert named(TEXT) == [
        ("large city", 4.0),
        ("Seine river", 3.5),
        ("river", 1.5),
        ("capital", 1.0),
        ("France", 1.0),
        ("Paris", 1.0),
        ("long", 1.0),
    ]


def test_four_degrees_of_seven_phrases_remove_0_3_5_7_and_what_they_remove_is_nested():
    counts = removed_counts(7, degrees=4, ceiling=1.0)
    phrases = key_phrases(TEXT, STOP)
    texts = [without(TEXT, [(p.start, p.end) for p in phrases[:n]]) for n in counts]

    assert counts == (0, 3, 5, 7)
    assert texts[0] == TEXT
    assert texts[1] == "The capital of France is Paris, a on the . The is long."
    assert texts[3] == "The of is , a on the . The is ."


@pytest.mark.parametrize(
    ("n", "degrees", "ceiling", "counts"),
    [
        (2, 4, 1.0, (0, 1, 2, 2)),
        (20, 2, 0.55, (0, 11)),  # in floats 0.55 * 20 is 11.000000000000002
        (3, 4, 1.0, (0, 1, 2, 3)),
        (0, 3, 1.0, (0, 0, 0)),
        (10, 3, 0.5, (0, 3, 5)),
    ],
)
def test_counts_are_exact(n: int, degrees: int, ceiling: float, counts: tuple[int, ...]):
    assert removed_counts(n, degrees=degrees, ceiling=ceiling) == counts


def test_a_phrase_is_removed_at_its_place_and_another_occurrence_of_its_words_stays():
    (best, *_) = key_phrases("Seine river is a river", STOP)
    assert without("Seine river is a river", [(best.start, best.end)]) == "is a river"


def test_a_number_with_a_point_or_an_underscore_in_a_name_is_one_word():
    assert {text for text, _ in named("it is 3.5 of a_b, 1,000 on the well-known 7.")} == {
        "it",
        "3.5",
        "a_b",
        "1,000",
        "well-known 7",
    }


def test_a_line_break_parts_phrases_and_stays():
    assert [text for text, _ in named("old bridge\ntower")] == ["old bridge", "tower"]
    assert without("old bridge\ntower", [(0, 10)]) == "tower"
    assert without("a\nold bridge", [(2, 5)]) == "a\n bridge"


def test_a_filler_stands_for_every_word_and_nothing_else_changes():
    assert without("a  large city, is", [(3, 13)], filler="x") == "a  x x, is"


def test_the_length_rule_tells_all_where_lengths_part_and_nothing_where_they_do_not():
    degrees = np.repeat(np.arange(4), 5)

    assert length_rule_accuracy(20 - 3 * degrees, degrees) == 1.0
    assert length_rule_accuracy(np.full(20, 9), degrees) == pytest.approx(0.25)


def test_the_length_rule_does_not_know_the_text_that_it_judges():
    """Lengths 0 and 10 of degree 0, 1 and 9 of degree 1. Without the 0, degree 0 is at 10 and
    degree 1 at 5: the 0 is given degree 1. Likewise by symmetry all four are wrong or tied."""
    lengths, degrees = np.array([0, 10, 1, 9]), np.array([0, 0, 1, 1])
    assert length_rule_accuracy(lengths, degrees) == 0.0


def test_a_degree_that_occurs_once_has_no_rule():
    with pytest.raises(ValueError, match="two texts of every degree"):
        length_rule_accuracy(np.array([1, 2, 3]), np.array([0, 0, 1]))
