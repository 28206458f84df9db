"""A comparison as sections of the HTML page, from the plain data of `summarise_comparison`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cream.report.comparison import comparison_runs, summarise_comparison
from cream.report.comparison_cost import KINDS
from cream.report.page import PageResult, Section, write_page
from cream.report.page.axes import Frame, category_axis, percent_axis
from cream.report.page.figures import Point, Series, Words, point_figure
from cream.report.page.headline import percent, signed
from cream.report.page.markup import Html, join, paragraph, table

ABSENT = "–"
INTERVALS = "95 % bootstrap intervals over seeds and prompts"


def write_comparison_page(root: Path, out: Path) -> PageResult:
    """Write a comparison as one HTML file: methods over seeds, then the runs of the first seed.

    Raises:
        RunError: `root` holds no comparison, or none of its runs has begun.
    """
    comparison = summarise_comparison(root)
    runs = comparison_runs(root)
    first = [run for run in runs if run.name == f"seed-{comparison['seeds'][0]}"] or runs
    return write_page(first, out, extra=comparison_sections(comparison))


def comparison_sections(comparison: Mapping[str, Any]) -> list[Section]:
    """Accuracy, pairs and cost of the methods side by side; without results there are none."""
    methods = comparison["methods"]
    if not any(method["models"] for method in methods):
        return []
    seeds = ", ".join(map(str, comparison["seeds"]))
    said = (
        f"{len(methods)} methods with seeds {seeds}; differences are to {comparison['baseline']}, "
        "paired by seed and test prompt. Runs shown one by one further down are those of the first "
        "seed."
    )
    parts = [paragraph(said), _accuracy_figure(methods), _accuracy_table(comparison)]
    found = [Section("methods", "Methods compared", join(parts))]
    if any(method["iterations"] for method in methods):
        found.append(Section("methods-pairs", "Pairs of the methods", _pair_table(methods)))
    return [*found, Section("methods-cost", "Cost of the methods", _cost_table(comparison))]


def _accuracy_figure(methods: Sequence[Mapping[str, Any]]) -> Html:
    names = list(dict.fromkeys(row["model"] for m in methods for row in m["models"]))
    series = [
        Series(
            method["name"],
            tuple(
                Point(
                    float(names.index(row["model"])),
                    row["accuracy"],
                    row["low"],
                    row["high"],
                    row["n"],
                )
                for row in method["models"]
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


def _accuracy_table(comparison: Mapping[str, Any]) -> Html:
    head = ["method", "model", "accuracy", "vs M1, points", f"vs {comparison['baseline']}, points"]
    rows = [
        [
            method["name"],
            row["model"],
            f"{percent(row['accuracy'])} [{percent(row['low'])}, {percent(row['high'])}]",
            _points(row["gain"]),
            _points(row["difference"]),
            _share(row["mean_at_k"]),
            f"{row['mean_tokens']:.1f}",
            str(len(row["seeds"])),
            str(row["n"]),
        ]
        for method in comparison["methods"]
        for row in method["models"]
    ]
    head += ["mean@k", "tokens", "seeds", "n"]
    return table(head, rows, f"Greedy accuracy, means over seeds, with {INTERVALS}", words=2)


def _pair_table(methods: Sequence[Mapping[str, Any]]) -> Html:
    head = ["method", "iteration", "C", "C in loss", "pairs", "pairs right", "KL to M0", "tokens"]
    rows = [
        [
            method["name"],
            str(row["iteration"]),
            _number(row["consistency"]["mean"], ".3f"),
            _number(row["consistency_in_loss"]["mean"], ".3f"),
            f"{row['paired']} of {row['prompts']}",
            f"{_share(row['pair_accuracy']['accuracy'])} of {row['pair_accuracy']['n']}",
            _number(row["kl_to_seed_per_token"]["mean"], ".3f"),
            _number(row["mean_completion_tokens"]["mean"], ".1f"),
        ]
        for method in methods
        for row in method["iterations"]
    ]
    caption = (
        "C, KL (nats per sampled token) and completion length (tokens): means over seeds; pairs, "
        "and right ones of the decidable pairs: of all seeds"
    )
    return table(head, rows, caption)


def _cost_table(comparison: Mapping[str, Any]) -> Html:
    costs = [(method["name"], method["cost"]) for method in comparison["methods"]]
    rows = [
        [
            name,
            f"{cost['seconds']:,.0f}",
            f"{cost['seconds_alone']:,.0f}",
            *(f"{cost['tokens'][kind]:,.0f}" for kind in KINDS),
        ]
        for name, cost in [*costs, ("together", comparison["cost"])]
    ]
    caption = (
        "Seconds and completion tokens, all seeds. A stage that methods share is counted once and "
        "divided evenly among them; alone: what a method's runs would have taken by themselves. "
        "Tokens of fine-tuning and of judges are not recorded"
    )
    return table(["method", "seconds", "alone", *(f"{kind}" for kind in KINDS)], rows, caption)


def _points(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ABSENT
    estimate, low, high = (signed(100 * value[key]) for key in ("difference", "low", "high"))
    return f"{estimate} [{low}, {high}]"


def _share(value: float | None) -> str:
    return ABSENT if value is None else percent(value)


def _number(value: float | None, form: str) -> str:
    return ABSENT if value is None else format(value, form)
