"""Figures put values where their axes say, and say in words what they draw."""

from __future__ import annotations

import re

import pytest

from cream.report.page.axes import Axis, Frame, axis_over, axis_within, category_axis, percent_axis
from cream.report.page.figures import (
    Point,
    Reference,
    Series,
    Words,
    histogram_figure,
    line_figure,
    point_figure,
    stack_figure,
)

UNIT = Axis("x", 0.0, 1.0, (0.0, 0.5, 1.0))
FRAME = Frame(UNIT, UNIT, 196.0, 160.0)
"""Plots from 80 to 180 across; and from 14 down to 160 - 12 - 14 - 20 = 114: 100 units each."""


def test_a_frame_maps_the_ends_of_its_axes_to_the_ends_of_the_plot():
    assert [FRAME.across(v) for v in (0.0, 0.5, 1.0)] == [80, 130, 180]
    assert [FRAME.up(v) for v in (0.0, 0.5, 1.0)] == [114, 64, 14]
    assert FRAME.up(7.0) == 14  # held inside


def test_points_and_their_intervals_stand_where_the_axes_say():
    """y 0.5, interval 0.25 to 0.75: heights 64, 89 and 39, at x 0.5, which is 130 across."""
    points = (Point(0.5, 0.5, 0.25, 0.75, 12),)
    drawn = point_figure(Words("T"), FRAME, [Series("a", points)])

    assert 'd="M126 64a4' in drawn
    assert '<line class="whisker s0" x1="130" y1="89" x2="130" y2="39">' in drawn
    assert '0.25 to 0.75</td><td class="number">12</td>' in drawn


def test_series_at_one_place_stand_side_by_side_with_their_own_marker_and_legend():
    one = (Point(0.5, 0.5),)
    drawn = point_figure(Words("T"), FRAME, [Series("first", one), Series("second", one)])

    assert 'class="mark s0" d="M119 64a4' in drawn  # 130 - 7, and the circle's radius
    assert 'class="mark s1" d="M133.4 60.4h7.2' in drawn
    assert re.findall(r"</svg>(first|second)</li>", drawn) == ["first", "second"]


def test_a_line_goes_through_its_points_beside_its_reference():
    points = tuple(Point(x, y) for x, y in ((0.0, 0.0), (0.5, 1.0), (1.0, 0.5)))
    level = Reference("fixed", 0.5, 0.5)
    drawn = line_figure(Words("T"), FRAME, [Series("a", points)], [level])

    assert 'd="M80 114L130 14L180 64"' in drawn
    assert '<line class="reference" x1="80" y1="64" x2="180" y2="64">' in drawn
    assert "fixed</li>" in drawn


def test_a_histogram_s_bars_are_as_high_as_their_counts():
    frame = Frame(UNIT, Axis("prompts", 0.0, 4.0, (0.0, 2.0, 4.0)), 172.0, 160.0)
    drawn = histogram_figure(Words("T"), frame, [0.0, 0.5, 1.0], [1, 4], ("chance", 0.5))
    heights = re.findall(r'<rect class="bar s0"[^>]* y="([\d.]+)"[^>]* height="([\d.]+)"', drawn)

    assert heights == [("89", "25"), ("14", "100")]
    assert "chance</text>" in drawn


def test_a_stack_s_parts_are_as_wide_as_their_shares():
    """290 units for the whole: 145 for half; a unit is left between parts."""
    drawn = stack_figure(Words("T"), [("it", {"paired": 3, "tied": 3})], ["paired", "tied"])

    assert re.findall(r' width="([\d.]+)"', drawn) == ["144", "144"]
    assert "paired: 3 of 6" in drawn


@pytest.mark.parametrize(
    ("values", "ticks"),
    [
        ([0.0, 100.0], (0, 50, 100)),
        ([0.3, 4.1], (0, 1, 2, 3, 4, 5)),
        ([-0.2, 0.6], (-0.2, 0.0, 0.2, 0.4, 0.6)),
        ([5.0, 5.0], (2.0, 4.0, 6.0, 8.0)),
        ([], (0.0, 0.5, 1.0)),
    ],
)
def test_ticks_are_round_and_cover_the_values(values: list[float], ticks: tuple[float, ...]):
    assert axis_over("y", values).ticks == pytest.approx(ticks)


def test_an_axis_within_ends_where_the_data_end():
    axis = axis_within("step", 1.0, 23.0)

    assert (axis.low, axis.high, axis.ticks) == (1.0, 23.0, (10.0, 20.0))


def test_tick_labels_lose_no_digit_and_have_a_true_minus():
    axis = Axis("C", -0.25, 0.5, (-0.25, 0.0, 0.25, 0.5))

    assert axis.tick_labels == ("−0.25", "0.00", "0.25", "0.50")
    assert percent_axis("a", 0.43).tick_labels == ("0", "15", "30", "45", "60")
    assert percent_axis("a", 0.08).tick_labels == ("0.0", "2.5", "5.0", "7.5", "10.0")


def test_many_names_are_thinned():
    labels = category_axis("model", [f"M{n}" for n in range(25)]).labels

    assert [label for label in labels if label] == [f"M{n}" for n in range(0, 25, 3)]


def test_words_of_a_figure_are_escaped_and_read_out():
    said = Words("<b>", "note & more", alternative='falls from 1 "to" 0')
    drawn = line_figure(said, FRAME, [Series("<i>", (Point(0.0, 1.0),))])

    assert "<b>" not in drawn
    assert "<i>" not in drawn
    assert 'aria-label="falls from 1 &quot;to&quot; 0"' in drawn
    assert "note &amp; more" in drawn
