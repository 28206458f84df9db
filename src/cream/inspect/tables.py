"""Plan, machine and explanations as plain tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from cream.inspect.terminal import duration, printable

SHOWN_CHARACTERS = 300
"""Of a completion; `--json` has the whole text."""
STATES = {"finished": "done", "begun": "begun", "missing": ""}


def print_plan(console: Console, plan: Mapping[str, Any]) -> None:
    """Print a plan (see `cream.inspect.plan`)."""
    title = f"{plan['name']}: method {plan['method']}, seed {plan['seed']}, {plan['model']}"
    table = _table(printable(title))
    table.add_column("", justify="right")
    table.add_column("stage", overflow="fold")
    table.add_column("prompts", justify="right")
    table.add_column("completions", justify="right")
    table.add_column("tokens", justify="right")
    table.add_column("time", justify="right")
    table.add_column("")
    for number, row in enumerate(plan["stages"], start=1):
        completions = f"{row['completions']:,}"
        cells = (
            str(number),
            row["label"],
            f"{row['prompts']:,}",
            f"≤ {completions}" if row["at_most"] else completions,
            "" if row["tokens"] is None else f"{row['tokens']:,}",
            _time(row),
            STATES[row["state"]],
        )
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    for line in _plan_lines(plan):
        console.print(Text(line), soft_wrap=True)


def _time(row: Mapping[str, Any]) -> str:
    if row["seconds"] is None:
        return "" if row["kind"] != "text_score" else "?"
    words = duration(row["seconds"])
    return words if row["state"] == "finished" else f"~{words}"


def _plan_lines(plan: Mapping[str, Any]) -> list[str]:
    total, memory, disk = len(plan["stages"]), plan["memory"], plan["disk"]
    lines = [f"done: {plan['finished']} of {total} stages in {printable(plan['run_dir'])}"]
    if plan["remaining_seconds"] is not None:
        unknown = [row["label"] for row in plan["stages"] if row["kind"] == "text_score"]
        more = f", and what takes a judge or reward model ({len(unknown)} stages)"
        lines.append(f"left: about {duration(plan['remaining_seconds'])}{more if unknown else ''}")
    length = plan["completion_tokens"]
    lines.append(f"completions are taken to have {length['mean']:.1f} tokens ({length['source']})")
    held = memory["measured_bytes"]
    measured = "" if held is None else f"; the calibration held {_size(held)}"
    lines.append(
        f"memory: {_size(memory['training_bytes'])} for weights, gradients and moments in training,"
        f" plus activations{measured}"
    )
    lines.append(f"disk: {_size(disk['needed_bytes'])} needed, {_size(disk['free_bytes'])} free")
    return lines


def print_machine(console: Console, machine: Mapping[str, Any]) -> None:
    """Print what `cream doctor` found."""
    table = _table("machine")
    table.add_column("what")
    table.add_column("found", overflow="fold")
    for name, found in machine_rows(machine):
        table.add_row(Text(name), Text(found))
    console.print(table)
    checks = _table("what a run needs")
    checks.add_column("")
    checks.add_column("what")
    checks.add_column("found", overflow="fold")
    marks = {"ok": ("✓", "green"), "note": ("·", "yellow"), "missing": ("✗", "red")}
    for check in machine["checks"]:
        found = check["found"] + (f"; {check['remedy']}" if check["remedy"] else "")
        checks.add_row(Text(*marks[check["state"]]), Text(check["name"]), Text(printable(found)))
    console.print(checks)


def machine_rows(machine: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and finding of each fact about a machine, in words."""
    cpu, engine, speed = machine["cpu"], machine["engine"], machine["speed"]
    kernels = machine["kernels"]
    rows = [
        ("processor", f"{cpu['name']}; {', '.join(cpu['features']) or 'no vector unit found'}"),
        ("cores", f"{cpu['usable_cores']} of {cpu['cores']} usable, {cpu['threads']} threads"),
        ("GPU", ", ".join(machine["gpus"]) or "none"),
        ("engine", f"{engine['name']}, {engine['compute_dtype']} on {engine['device']}"),
        ("", engine["reason"]),
        ("kernels", f"{'used' if kernels['used'] else 'not used'}: {kernels['reason']}"),
    ]
    if speed is not None:
        gemm = ", ".join(f"{n} {r / 1e9:,.0f} Gflop/s" for n, r in speed["gemm"].items())
        rows += [("matrix product", gemm), ("copy", f"{speed['copy'] / 1e9:.1f} GB/s")]
    free = machine["memory"]["available_bytes"]
    rows += [
        ("memory", "unknown" if free is None else f"{_size(free)} available"),
        ("disk", f"{_size(machine['disk']['free_bytes'])} free in {machine['disk']['folder']}"),
        ("libraries", ", ".join(f"{n} {v}" for n, v in machine["libraries"].items())),
    ]
    return [(name, printable(found)) for name, found in rows]


def print_explanation(console: Console, told: Mapping[str, Any]) -> None:
    """Print what `cream explain` found about a prompt."""
    title = f"prompt {told['prompt_id']}, iteration {told['iteration']}, method {told['method']}"
    console.print(Text(printable(title), style="bold"))
    for message in told["prompt"]:
        console.print(Text(f"{message['role']}: {printable(message['content'])}"), soft_wrap=True)
    if told["answer"] is not None:
        console.print(Text(f"answer: {printable(told['answer'])}"), soft_wrap=True)
    for number, row in enumerate(told["completions"], start=1):
        notes = f" ({', '.join(row['notes'])})" if row["notes"] else ""
        text = printable(row["text"], limit=SHOWN_CHARACTERS)
        console.print(Text(f"#{number}{notes}: {text}"), soft_wrap=True)
    console.print(_figures_table(told["completions"]))
    for line in told["words"]:
        console.print(Text(printable(line)), soft_wrap=True)


def _figures_table(completions: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("figures, nats; in brackets the rank, 1 is best")
    names = list(completions[0]["figures"])
    for name in ("#", *names, "tokens"):
        table.add_column(Text(name), justify="right", overflow="fold")
    for number, row in enumerate(completions, start=1):
        cells = [_figure(row["figures"][name], row["ranks"].get(name)) for name in names]
        table.add_row(*(Text(cell) for cell in (str(number), *cells, str(row["num_tokens"]))))
    return table


def _figure(value: float | None, rank: float | None) -> str:
    words = "" if value is None else f"{value:.3f}"
    return words if rank is None else f"{words} ({rank:g})"


def _table(title: str) -> Table:
    return Table(title=Text(title), title_justify="left", show_edge=False, pad_edge=False)


def _size(count: int | float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
