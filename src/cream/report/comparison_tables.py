"""A comparison as plain tables for the terminal, readable at 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cream.report.comparison_cost import KINDS

COMMON = "all"
"""Stands for every method where they share a model, as M0 and M1."""


def comparison_tables(comparison: Mapping[str, Any]) -> RenderableType:
    """Accuracy, pairs and cost of every method."""
    blocks: list[RenderableType] = [Text(_headline(comparison))]
    if any(method["models"] for method in comparison["methods"]):
        blocks.append(_accuracy_table(comparison))
    if any(method["iterations"] for method in comparison["methods"]):
        blocks.append(_pair_table(comparison))
    blocks.append(_cost_table(comparison))
    return Group(*blocks)


def print_comparison(console: Console, comparison: Mapping[str, Any]) -> None:
    """Print `comparison_tables`."""
    console.print(comparison_tables(comparison))


def _headline(comparison: Mapping[str, Any]) -> str:
    members = comparison["members"]
    finished = sum(member["finished"] for member in members)
    seeds = ", ".join(map(str, comparison["seeds"]))
    return (
        f"{comparison['name']}: {len(comparison['methods'])} methods, seeds {seeds}; "
        f"{finished} of {len(members)} runs finished"
    )


def _accuracy_table(comparison: Mapping[str, Any]) -> Table:
    baseline = comparison["baseline"]
    one = len(comparison["seeds"]) == 1
    over = "prompts (of one seed; other seeds would differ)" if one else "seeds and prompts"
    table = _table(
        "accuracy",
        "greedy accuracy and mean@k in %, means over seeds; differences in points, paired by seed "
        f"and prompt; in brackets the 95 % bootstrap interval over {over}",
    )
    _method_column(table)
    table.add_column("model", no_wrap=True)
    for name in ("accuracy", "vs M1", Text(f"vs {baseline}"), "mean@k"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in _rows(comparison["methods"]):
        table.add_row(
            Text(name),
            row["model"],
            f"{100 * row['accuracy']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
            _points(row["gain"]),
            "" if name == COMMON else _points(row["difference"]),
            "" if row["mean_at_k"] is None else f"{100 * row['mean_at_k']:.1f}",
        )
    return table


def _rows(methods: Sequence[Mapping[str, Any]]) -> list[tuple[str, Mapping[str, Any]]]:
    """Models with whose they are; M0 and M1 once if all methods have the same."""
    shared = []
    for name in ("M0", "M1"):
        found = [row for m in methods for row in m["models"] if row["model"] == name]
        if len(found) == len(methods) and all(r["by_seed"] == found[0]["by_seed"] for r in found):
            shared.append(found[0])
    once = {row["model"] for row in shared}
    own = [(m["name"], row) for m in methods for row in m["models"] if row["model"] not in once]
    return [*((COMMON, row) for row in shared), *own]


def _pair_table(comparison: Mapping[str, Any]) -> Table:
    table = _table(
        "pairs",
        "C: consistency rate, and KL to M0 in nats per sampled token, means over seeds; right: of "
        "the decidable pairs of all seeds; tokens: mean completion length",
    )
    _method_column(table)
    for name in ("iteration", "C", "C in loss", "pairs", "right", "KL to M0", "tokens"):
        table.add_column(name, justify="right", no_wrap=True)
    for method in comparison["methods"]:
        for row in method["iterations"]:
            right = row["pair_accuracy"]
            table.add_row(
                Text(method["name"]),
                str(row["iteration"]),
                _number(row["consistency"]["mean"], ".3f"),
                _number(row["consistency_in_loss"]["mean"], ".3f"),
                f"{row['paired']} of {row['prompts']}",
                f"{_percent(right['accuracy'])} of {right['n']}" if right["n"] else "",
                _number(row["kl_to_seed_per_token"]["mean"], ".3f"),
                _number(row["mean_completion_tokens"]["mean"], ".1f"),
            )
    return table


def _cost_table(comparison: Mapping[str, Any]) -> Table:
    table = _table(
        "cost, all seeds",
        "a stage that methods share is counted once, divided evenly among them; alone: what a "
        "method's runs would have taken by themselves. Tokens of completions; those of fine-tuning "
        "and of judges are not recorded",
    )
    _method_column(table)
    for name in ("seconds", "alone", *KINDS):
        table.add_column(name, justify="right", no_wrap=True)
    rows = [(m["name"], m["cost"]) for m in comparison["methods"]]
    for name, cost in [*rows, ("together", comparison["cost"])]:
        table.add_row(
            Text(name),
            f"{cost['seconds']:,.0f}",
            f"{cost['seconds_alone']:,.0f}",
            *(f"{cost['tokens'][kind]:,.0f}" for kind in KINDS),
            style="dim" if name == "together" else None,
        )
    return table


def _table(title: str, caption: str) -> Table:
    return Table(title=title, title_justify="left", caption=caption, caption_justify="left")


def _method_column(table: Table) -> None:
    """The one column that gives way: a method with options may have a long name."""
    table.add_column("method", overflow="fold", min_width=8)


def _points(value: Mapping[str, Any] | None) -> str:
    if value is None:
        return ""
    numbers = (100 * value[key] for key in ("difference", "low", "high"))
    return "{:+.1f} [{:+.1f}, {:+.1f}]".format(*numbers)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
