"""What several witnesses that answer say together, by hand."""

import numpy as np
import pytest

from cream.algorithms.answers import joint_verdict, normalised
from cream.algorithms.pair_consistency import WitnessVerdict

A, D, U = WitnessVerdict.AGREES, WitnessVerdict.DISAGREES, WitnessVerdict.UNSCORED
SAME = np.array(
    [
        # all, two, two with a silent one, one with silents, none, all silent, one against two
        [1.0, 1.0, 1.0, 1.0, 0.0, np.nan, 1.0],
        [1.0, 1.0, 1.0, np.nan, 0.0, np.nan, 0.0],
        [1.0, 0.0, np.nan, np.nan, 0.0, np.nan, 0.0],
    ]
)


@pytest.mark.parametrize(
    ("by", "expected"),
    [
        ("all", [A, D, U, U, D, U, D]),
        # Two of three suffice; with one agreeing and two silent, one of these could still decide.
        ("majority", [A, A, A, U, D, U, D]),
    ],
)
def test_what_three_witnesses_say_together(by, expected):
    assert joint_verdict(SAME, by).tolist() == expected


def test_of_one_witness_both_rules_are_its_own_word():
    one = np.array([[1.0, 0.0, np.nan]])

    assert joint_verdict(one, "all").tolist() == joint_verdict(one, "majority").tolist()
    assert joint_verdict(one, "all").tolist() == [A, D, U]


def test_of_two_witnesses_a_majority_is_both():
    assert joint_verdict(np.array([[1.0], [0.0]]), "majority").tolist() == [D]


def test_case_and_spacing_make_no_other_answer():
    assert normalised("  The  Answer\nis 4") == normalised("the answer IS 4")
    assert normalised("4 2") != normalised("42")
