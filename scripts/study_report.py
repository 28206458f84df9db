"""What the study found: tables and a figure from the stored records, no model loaded.

Gains are percentage points of greedy accuracy over M1 of the same arm, with intervals that draw
seeds and test prompts again (`cream.algorithms.two_level`). The AUROC of a signal is over prompts:
how well it tells those whose best sample by likelihood is right from the others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cream.report.comparison import Comparison, comparison_runs, summarise_comparison
from cream.report.signals import PromptSignals, prompt_signals, signal_quality
from cream.report.table import Table, markdown
from cream.runs.reader import RunReader

GROUPS = {
    "whole": "M1 on all seed examples",
    "halves": "M1 and its witness on half of the seed examples each",
    "known": "the control, prompts of lengths that M1 was fine-tuned on",
}
SIGNALS_OF = ("unanimous", "srlm-implicit", "cross-answer")
"""Arms whose signals the page shows; the JSON has those of all."""
MADE_HERE = "<!-- from here on made by `scripts/study.py report` -->"
FIGURE_WIDTH, BAR, LABEL = 720, 18, 240


def write_report(runs: Path, folder: Path) -> None:
    """Write ``study.json`` and ``study.svg`` to a folder, and the tables into its ``study.md``."""
    found = list(_comparisons(runs))
    records = [
        {
            "family": family,
            "group": group,
            "seconds": told["seconds"],
            "environment": told["environment"],
            "comparison": comparison.as_json(),
            "signals": signal_table(runs / family / group),
        }
        for family, group, told, comparison in found
    ]
    text = json.dumps(records, indent=1, default=str)
    (folder / "study.json").write_text(text + "\n", encoding="utf-8")
    rows = [
        (f"{family}, {group}: {method.name}", method.models[-1].gain)
        for family, group, _, comparison in found
        for method in comparison.methods
    ]
    (folder / "study.svg").write_text(figure(rows), encoding="utf-8")
    blocks = [block for record in records for block in _blocks(record)]
    page = folder / "study.md"
    told, _, _ = page.read_text(encoding="utf-8").partition(MADE_HERE)
    page.write_text(f"{told}{MADE_HERE}\n\n{chr(10).join(blocks)}", encoding="utf-8")


def _comparisons(runs: Path) -> Iterator[tuple[str, str, Any, Comparison]]:
    for path in sorted(runs.glob("*/study.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        for group in GROUPS:
            folder = path.parent / group
            if (folder / "comparison.json").exists():
                yield path.parent.name, group, told, summarise_comparison(folder)


def _blocks(record: Mapping[str, Any]) -> Iterator[str]:
    comparison = Comparison.model_validate(record["comparison"])
    names = [model.model for model in comparison.methods[0].models]
    oracle = next((m for m in comparison.methods if m.name == "oracle"), None)
    best = oracle.models[-1].gain if oracle else None
    rows = []
    for method in comparison.methods:
        accuracies = [f"{100 * model.accuracy:.1f}" for model in method.models[1:]]
        gain = method.models[-1].gain
        share = gain.difference / best.difference if gain and best and best.difference > 0 else None
        right = [
            "" if it.chosen_right.share is None else f"{100 * it.chosen_right.share:.0f}"
            for it in method.iterations
        ]
        used = [str(it.chosen_right.n) for it in method.iterations]
        rows.append(
            (
                method.name,
                *accuracies,
                "" if gain is None else _points(gain.difference, gain.low, gain.high),
                "" if share is None else f"{100 * share:.0f} %",
                " ".join(right),
                " ".join(used),
            )
        )
    seeds, answers = comparison.seeds, comparison.methods[0].models[-1].n
    title = (
        f"{record['family']}: {GROUPS[record['group']]}; seeds {', '.join(map(str, seeds))}, "
        f"{answers} greedy answers a model"
    )
    head = ("arm", *names[1:], "gain, points", "of the oracle's", "chosen right, %", "of n")
    yield _titled(Table(title, head, tuple(rows)))
    for arm in SIGNALS_OF:
        measured = [row for row in record["signals"] if row["arm"] == arm]
        if measured:
            yield _titled(_signal_rows(f"{record['family']}, {record['group']}, {arm}", measured))


def _titled(table: Table) -> str:
    return f"### {table.title}\n\n{markdown(table)}"


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _signal_rows(place: str, measured: Sequence[Mapping[str, Any]]) -> Table:
    """AUROC of each signal, an iteration a column."""
    iterations = sorted({row["iteration"] for row in measured})
    of = {(row["signal"], row["iteration"]): row for row in measured}
    right = {row["iteration"]: row["right"] for row in measured}
    rows = [
        (name, *(_auroc(of.get((name, t))) for t in iterations))
        for name in dict.fromkeys(row["signal"] for row in measured)
    ]
    head = [f"iteration {t} ({100 * right[t]:.0f} % of labels right)" for t in iterations]
    return Table(f"{place}: AUROC of signals, n", ("signal", *head), tuple(rows))


def _auroc(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    return f"{row['auroc']:.2f} [{row['low']:.2f}, {row['high']:.2f}], {row['n']}"


def signal_table(comparison: Path) -> list[dict[str, Any]]:
    """AUROC of every signal, by arm and iteration, prompts of all seeds together."""
    gathered: dict[tuple[str, int], list[PromptSignals]] = {}
    for run in comparison_runs(comparison):
        reader = RunReader(run)
        for t in sorted(reader.pairings):
            gathered.setdefault((run.parent.name, t), []).append(prompt_signals(reader, t))
    return [
        {
            "arm": arm,
            "iteration": t,
            "right": float(np.nanmean(np.concatenate([part.right for part in parts]))),
            **quality.as_json(),
        }
        for (arm, t), parts in gathered.items()
        for quality in signal_quality(parts)
    ]


def figure(rows: Sequence[tuple[str, Any]]) -> str:
    """Gains of the last model with their intervals, as SVG."""
    known = [(name, gain) for name, gain in rows if gain is not None]
    low = min([0.0, *(gain.low for _, gain in known)])
    high = max([0.01, *(gain.high for _, gain in known)])

    def x(value: float) -> float:
        return LABEL + (value - low) / (high - low) * (FIGURE_WIDTH - LABEL - 60)

    height = BAR * len(known) + 30
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {FIGURE_WIDTH} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<line x1="{x(0):.1f}" y1="0" x2="{x(0):.1f}" y2="{height - 20}" stroke="gray"/>',
    ]
    for place, (name, gain) in enumerate(known):
        y = BAR * place + BAR / 2
        colour = "seagreen" if gain.low > 0 else "firebrick" if gain.high < 0 else "dimgray"
        lines += [
            f'<text x="{LABEL - 8}" y="{y + 4:.1f}" text-anchor="end">{name}</text>',
            f'<line x1="{x(gain.low):.1f}" y1="{y:.1f}" x2="{x(gain.high):.1f}" y2="{y:.1f}" '
            f'stroke="{colour}" stroke-width="2"/>',
            f'<circle cx="{x(gain.difference):.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>',
            f'<text x="{x(gain.high) + 6:.1f}" y="{y + 4:.1f}">{100 * gain.difference:+.1f}</text>',
        ]
    lines.append(
        f'<text x="{LABEL}" y="{height - 5}">gain of the last model over M1, points of greedy '
        "accuracy, 95 % intervals over seeds and prompts</text></svg>"
    )
    return "\n".join(lines) + "\n"
