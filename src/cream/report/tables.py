"""A run's summary as plain tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from cream.report.summary import overall_baseline


def summary_tables(summary: Mapping[str, Any]) -> RenderableType:
    """Accuracy per model, consistency and pairs per iteration, time per stage."""
    blocks: list[RenderableType] = []
    if summary["models"]:
        models, constants = summary["models"], summary["baseline"]
        title = f"{summary['name']}: method {summary['method']}, seed {summary['seed']}"
        blocks += [_accuracy_table(title, models, constants), _task_table(models, constants)]
    if summary["iterations"]:
        blocks += [_iteration_table(summary), *_drops(summary)]
    if summary["seconds"]:
        blocks.append(_time_line(summary))
    return Group(*blocks) if blocks else Text("nothing is finished yet")


def print_summary(console: Console, summary: Mapping[str, Any]) -> None:
    """Print `summary_tables`."""
    console.print(summary_tables(summary))


def print_evaluation(console: Console, summary: Mapping[str, Any]) -> None:
    """Print the accuracy of one model, overall and per task."""
    rows = [{"model": "model", "gain": None, **summary}]
    title = f"{summary['model']}, seed {summary['seed']}"
    console.print(_accuracy_table(title, rows, summary["baseline"]))
    console.print(_task_table(rows, summary["baseline"]))


def _accuracy_table(
    title: str, models: Sequence[Mapping[str, Any]], constants: Mapping[str, Any]
) -> Table:
    first = models[0]["overall"]
    k = first.get("k")
    table = Table(
        title=f"{title}, {first['n']} test prompts",
        title_justify="left",
        caption="greedy accuracy with 95 % Wilson interval; vs M1: paired difference in points "
        "with 95 % bootstrap interval over prompts",
        caption_justify="left",
    )
    table.add_column("model")
    table.add_column("greedy accuracy", justify="right")
    table.add_column("vs M1", justify="right")
    if k:
        table.add_column(f"mean@{k}", justify="right")
        table.add_column(f"pass@{k}", justify="right")
    table.add_column("partial credit", justify="right")
    table.add_column("tokens", justify="right")
    for row in models:
        overall, gain = row["overall"], row["gain"]
        cells = [
            row["model"],
            f"{_percent(overall['accuracy'])} "
            f"[{_percent(overall['low'])}, {_percent(overall['high'])}]",
            f"{100 * gain['difference']:+.1f} [{100 * gain['low']:+.1f}, {100 * gain['high']:+.1f}]"
            if gain
            else "",
        ]
        if k:
            cells += [_percent(overall["mean_at_k"]), _percent(overall["pass_at_k"])]
        cells += [_percent(overall["partial_credit"]), f"{overall['mean_tokens']:.1f}"]
        table.add_row(*(Text(cell) for cell in cells))
    baseline = overall_baseline(constants)
    if baseline:
        cells = ["constant", _percent(baseline[0])]
        table.add_row(*(Text(cell, style="dim") for cell in cells))
    return table


def _task_table(models: Sequence[Mapping[str, Any]], constants: Mapping[str, Any]) -> Table:
    tasks = list(models[0]["tasks"])
    table = Table(title="greedy accuracy per task, %", title_justify="left")
    table.add_column("model")
    for task in tasks:
        table.add_column(Text(f"{task} ({models[0]['tasks'][task]['n']})"), justify="right")
    for row in models:
        cells = [f"{100 * row['tasks'][task]['accuracy']:.0f}" for task in tasks]
        table.add_row(row["model"], *cells)
    if constants:
        cells = [
            f"{100 * constants[task]['accuracy']:.0f} ({constants[task]['answer']!r})"
            for task in tasks
        ]
        table.add_row("constant", *(Text(cell) for cell in cells), style="dim")
    return table


def _iteration_table(summary: Mapping[str, Any]) -> Table:
    table = Table(
        title="iterations",
        title_justify="left",
        caption="C: consistency rate, mean (tau + 1) / 2 with 95 % bootstrap interval, chance 0.5; "
        "pairs right: chosen right and rejected wrong, of the pairs with exactly one right answer",
        caption_justify="left",
    )
    for name in ("iteration", "C compared", "C", "tau", "C in loss", "pairs", "pairs right"):
        table.add_column(name, justify="left" if name == "C compared" else "right")
    for row in summary["iterations"]:
        c = row["consistency"]
        accuracy = row["pair_accuracy"]
        table.add_row(
            f"{row['iteration']} (M{row['iteration']} -> M{row['iteration'] + 1})",
            Text(row["compared"] or "not measured"),
            Text(f"{c['rate']:.3f} [{c['low']:.3f}, {c['high']:.3f}]" if c else ""),
            _tau(c),
            f"{row['consistency_in_loss']:.3f}" if row["consistency_in_loss"] is not None else "",
            f"{row['tally']['parts'].get('paired', 0)} of {row['tally']['total']}",
            f"{_percent(accuracy['accuracy'])} of {accuracy['n']}"
            if accuracy["n"]
            else "none decidable",
        )
    return table


def _tau(consistency: Mapping[str, Any] | None) -> str:
    """Mean and spread over prompts; the spread needs two of them, TopOrder has no tau at all."""
    if not consistency or consistency["tau_mean"] is None:
        return ""
    spread = consistency["tau_std"]
    mean = f"{consistency['tau_mean']:+.2f}"
    return mean if spread is None else f"{mean} ± {spread:.2f}"


def _drops(summary: Mapping[str, Any]) -> list[Text]:
    lines = []
    for row in summary["iterations"]:
        dropped = {k: n for k, n in row["tally"]["parts"].items() if k != "paired" and n}
        if dropped:
            reasons = ", ".join(f"{reason} {n}" for reason, n in dropped.items())
            lines.append(Text(f"iteration {row['iteration']}: prompts without a pair: {reasons}"))
    return lines


def _time_line(summary: Mapping[str, Any]) -> Text:
    kinds: dict[str, float] = {}
    for stage, seconds in summary["seconds"].items():
        parts = stage.split("/")
        fine_tuned = stage == "sft/train" or parts[0] == "witnesses"
        kind = "fine-tune" if fine_tuned else parts[1] if len(parts) > 1 else parts[0]
        kinds[kind] = kinds.get(kind, 0.0) + seconds
    total = sum(kinds.values())
    shown = ", ".join(f"{kind} {s:.0f}" for kind, s in kinds.items() if s >= 0.5)
    return Text(f"time: {total:.0f} s ({shown})")


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def print_status(console: Console, stages: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per stage."""
    table = Table(title="stages", title_justify="left")
    table.add_column("stage")
    table.add_column("state")
    table.add_column("parts", justify="right")
    table.add_column("seconds", justify="right")
    for stage in stages:
        seconds = stage["seconds"]
        cells = (
            stage["stage"],
            stage["state"],
            str(stage["parts"] or ""),
            f"{seconds:.1f}" if seconds is not None else "",
        )
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
