"""What speaks for a label: signals of matrices small enough to work out by hand."""

import numpy as np
import pytest

from cream.recipe.parts import BestWorst, LogpQuantity
from cream.report.signals import (
    LARGEST_MARGIN,
    MAJORITY,
    UNANIMOUS,
    PromptSignals,
    signal_quality,
    signals_of,
)
from cream.stages.layout import Layout
from cream.types import ScoreMatrix

REWARD = LogpQuantity(unit="mean_likelihood", model="M1")


def layout(groups, *, scores, **models):
    """One list of (hash, logps_M1, logps_other, truncated) per prompt; all of two tokens."""
    rows = [row for group in groups for row in group]
    hashes, own, other, cut = (np.array(column) for column in zip(*rows, strict=True))
    return Layout(
        ScoreMatrix(
            prompt_ids=np.array([f"p{i}" for i in range(len(groups))], dtype=object),
            group_offsets=np.cumsum([0, *map(len, groups)]).astype(np.int64),
            completion_ids=np.array([f"c{i}" for i in range(len(rows))], dtype=object),
            num_tokens=np.full(len(rows), 2, dtype=np.int32),
            truncated=cut.astype(bool),
            ids_hash=hashes.astype(np.int64),
            logps={"M1": own.astype(np.float64), "other": other.astype(np.float64), **models},
            noise=dict.fromkeys(("M1", "other", *models), 0.0),
            scores={name: np.array(values, dtype=np.float64) for name, values in scores.items()},
            labels={},
            origin=None,
        ),
        BestWorst(truncated="drop"),
        REWARD,
    )


GROUPS = [
    # Three samples, two of them copies; the copies are likelier: label 7, share 2/3.
    [(7, -1.0, -2.0, 0), (8, -3.0, -1.0, 0), (7, -1.0, -2.0, 0)],
    # All the same.
    [(5, -4.0, -4.0, 0), (5, -4.0, -4.0, 0), (5, -4.0, -4.0, 0)],
    # The likeliest is cut off and no label: label 2.
    [(1, -0.5, -1.0, 1), (2, -1.0, -3.0, 0), (3, -2.0, -5.0, 0)],
    # Nothing but cut off.
    [(1, -1.0, -1.0, 1), (2, -2.0, -1.0, 1), (3, -3.0, -1.0, 1)],
]
VERDICTS = [1, 0, 1, 0, 0, 0, 1, 0, 1, 1, 1, 1]
ANSWERS = [0, 1, 0, 1, 1, 1, np.nan, np.nan, np.nan, 1, 1, 1]


@pytest.fixture
def found() -> PromptSignals:
    matrix = layout(GROUPS, scores={"verifier": VERDICTS, "answer_other": ANSWERS})
    return signals_of(matrix, "M1", {"answer_other": "other"})


def test_the_label_is_the_likeliest_completion_that_is_not_cut_off(found):
    np.testing.assert_array_equal(found.right, [1, 0, 0, np.nan])
    np.testing.assert_allclose(found.values["likelihood of the label"], [-0.5, -2.0, -0.5, np.nan])


def test_shares_count_copies_and_those_cut_off(found):
    shares = found.values["share of completions that are the label"]

    np.testing.assert_allclose(shares, [2 / 3, 1, 1 / 3, np.nan])
    np.testing.assert_array_equal(found.trusted[UNANIMOUS], [0, 1, 0, np.nan])
    np.testing.assert_array_equal(found.trusted[MAJORITY], [1, 1, 0, np.nan])


def test_margins_are_to_the_second_distinct_completion_and_largest_without_one(found):
    """-1/2 against -3/2, all the same, -1/2 against -1."""
    margins = found.values["likelihood margin"]

    np.testing.assert_allclose(margins, [1.0, LARGEST_MARGIN, 0.5, np.nan])


def test_another_model_is_asked_for_its_order_and_its_answer(found):
    """`other` puts 8 before 7, has no order for copies, and puts 2 before 3 as M1 does."""
    np.testing.assert_array_equal(found.values["tau with other"], [-1, np.nan, 1, np.nan])
    np.testing.assert_array_equal(
        found.values["order of best and worst under other"], [-1, np.nan, 1, np.nan]
    )
    np.testing.assert_array_equal(found.trusted["other answers it"], [0, 1, np.nan, np.nan])


def test_the_partial_tau_is_that_of_implicit_rewards_given_m0():
    """Rewards 3 2 1 0, 0 1 3 2 and -log pi_0 = 2 0 1 -2: taus -2/3, 2/3 and -1/3, by counting.

    So (-2/3 + 2/9) / sqrt((1 - 4/9) (1 - 1/9)) = -(4/9) / sqrt(40/81) = -sqrt(0.4).
    """
    seed = np.array([-2.0, 0.0, -1.0, 2.0])
    own, other = seed + np.array([3, 2, 1, 0]), seed + np.array([0, 1, 3, 2])
    group = [(i, a, b, 0) for i, (a, b) in enumerate(zip(own, other, strict=True))]

    found = signals_of(layout([group], scores={"verifier": [1, 0, 0, 0]}, M0=seed), "M1", {})

    (value,) = found.values["partial tau with other given M0"]
    assert value == pytest.approx(-np.sqrt(0.4))
    assert "partial tau with M0 given M0" not in found.values


def test_self_certainty_is_that_of_the_label():
    certain = np.arange(12.0)
    scores = {"verifier": VERDICTS, "self_certainty": certain}

    found = signals_of(layout(GROUPS, scores=scores), "M1", {})

    np.testing.assert_array_equal(
        found.values["self-certainty of the label"], [certain[0], certain[3], certain[7], np.nan]
    )


def test_reliability_counts_fifths_and_keeps_equal_values_together():
    """Cuts of nine at 1.8, 3.6, 5.4, 7.2: between 1 and 2 (three times), 4, 5 and 7."""
    values = np.array([1.0, 1, 1, 2, 3, 4, 5, 6, 7, 8])
    right = np.array([0.0, 0, 1, 0, 1, 0, 1, 1, 1, np.nan])

    (quality,) = signal_quality([PromptSignals(right, {"s": values}, {})])

    rows = [(row.least, row.most, row.right.share, row.right.n) for row in quality.reliability]
    assert rows == [(1, 1, 1 / 3, 3), (2, 2, 0, 1), (3, 3, 1, 1), (4, 5, 0.5, 2), (6, 7, 1, 2)]


def test_reliability_of_a_yes_or_no_has_two_parts():
    said = np.array([0.0] * 9 + [1.0])

    (quality,) = signal_quality([PromptSignals(said, {"s": said}, {})])

    assert [(row.least, row.right.share, row.right.n) for row in quality.reliability] == [
        (0.0, 0.0, 9),
        (1.0, 1.0, 1),
    ]


def test_auroc_is_counted_over_prompts_of_all_parts_with_a_value_and_a_verdict():
    """Right ones have 3 and 2, wrong ones 1 and 2: three of four are won, and one is half."""
    one = PromptSignals(np.array([1.0, 0.0, np.nan]), {"s": np.array([3.0, 1.0, 9.0])}, {})
    two = PromptSignals(np.array([1.0, 0.0, 1.0]), {"s": np.array([2.0, 2.0, np.nan])}, {})

    (quality,) = signal_quality([one, two])

    assert quality.auroc == pytest.approx(3.5 / 4)
    assert (quality.n, quality.without_value) == (4, 1)
    assert quality.low <= quality.auroc <= quality.high


def test_without_right_or_without_wrong_labels_there_is_nothing_to_measure():
    right = PromptSignals(np.array([1.0, 1.0]), {"s": np.array([3.0, 1.0])}, {})

    assert signal_quality([right]) == []
