"""A comparison as sections of the HTML page, from what `summarise_comparison` found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cream.report.comparison import (
    ComparedMethod,
    Comparison,
    comparers_of,
    comparison_runs,
    summarise_comparison,
)
from cream.report.markup import Html, PageSection, join, paragraph
from cream.report.page.axes import Frame, category_axis, percent_axis
from cream.report.page.figures import Point, Series, Words, point_figure
from cream.report.table import html, percent
from cream.report.tables import compared_accuracy_table, compared_pair_table, cost_table

INTERVALS = "95 % bootstrap intervals over seeds and prompts"


def page_parts(roots: Sequence[Path]) -> tuple[list[Path], list[PageSection]]:
    """Runs that a page shows one by one, and the sections of those that are compared.

    Args:
        roots: Runs, and comparisons: of these the runs of the first seed are shown.

    Raises:
        RunError: A root holds neither.
    """
    shown: list[Path] = []
    sections: list[PageSection] = []
    for root in roots:
        comparers, places = comparers_of(root)
        begun = comparison_runs(root)
        first = [runs[comparers.seeds[0]] for runs in places.values()]
        shown += [run for run in begun if run in first] or begun
        if len(places) * len(comparers.seeds) > 1:
            sections += comparison_sections(summarise_comparison(root))
    return shown, sections


def comparison_sections(comparison: Comparison) -> list[PageSection]:
    """Accuracy, pairs and cost of the methods side by side; without results there are none."""
    methods = comparison.methods
    if not any(method.models for method in methods):
        return []
    seeds = ", ".join(map(str, comparison.seeds))
    said = (
        f"{len(methods)} methods with seeds {seeds}; differences are to {comparison.baseline}, "
        "paired by seed and test prompt. Runs shown one by one further down are those of the first "
        "seed."
    )
    parts = [paragraph(said), _accuracy_figure(methods), html(compared_accuracy_table(comparison))]
    found = [PageSection("methods", "Methods compared", join(parts))]
    if any(method.iterations for method in methods):
        found.append(
            PageSection("methods-pairs", "Pairs of the methods", html(compared_pair_table(methods)))
        )
    costs = cost_table([(method.name, method.cost) for method in methods], comparison.cost)
    return [*found, PageSection("methods-cost", "Cost of the methods", html(costs))]


def _accuracy_figure(methods: Sequence[ComparedMethod]) -> Html:
    names = list(dict.fromkeys(row.model for m in methods for row in m.models))
    series = [
        Series(
            method.name,
            tuple(
                Point(
                    float(names.index(row.model)),
                    row.accuracy,
                    row.low,
                    row.high,
                    row.n,
                )
                for row in method.models
            ),
        )
        for method in methods
    ]
    top = max(point.high or point.y for one in series for point in one.points)
    frame = Frame(category_axis("model", names), percent_axis("greedy accuracy, %", top))
    told = "; ".join(
        f"{one.name} " + ", ".join(f"{names[int(p.x)]} {percent(p.y)}" for p in one.points)
        for one in series
    )
    said = Words(
        "Accuracy of each model, mean over seeds",
        f"Greedy accuracy; bars are {INTERVALS}. Methods are judged by their paired differences, "
        "which can be clear although these bars overlap.",
        alternative=f"Greedy accuracy per model: {told}",
    )
    return point_figure(said, frame, series, joined=True)
