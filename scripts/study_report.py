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
import pyarrow.parquet as pq

from cream.algorithms.ranking import kendall_tau
from cream.algorithms.rewards import Reward
from cream.algorithms.statistics import auroc
from cream.records import MatrixSummary
from cream.report.comparison import Comparison, comparison_runs, summarise_comparison
from cream.report.table import Table, markdown
from cream.runs.reader import RunReader
from cream.runs.tables import BASE_COLUMNS, LOGP_PREFIX, matrix_from_tables
from cream.stages.layout import Layout
from cream.types import ScoreMatrix

Signals = Mapping[str, np.ndarray]
GROUPS = {
    "whole": "M1 on all seed examples",
    "halves": "M1 and its witness on half of the seed examples each",
}
LARGEST = 1e9
"""Margin of a prompt whose samples are all the same: above any other."""
FIGURE_WIDTH, BAR, LABEL = 720, 18, 240


def write_report(runs: Path, folder: Path) -> None:
    """Write ``study.json``, ``study.svg`` and the tables of ``study.md`` to a folder."""
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
    (folder / "study-tables.md").write_text("\n".join(blocks) + "\n", encoding="utf-8")


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
    yield markdown(Table(title, head, tuple(rows)))
    if record["signals"]:
        yield markdown(_signal_rows(record))


def _points(value: float, low: float, high: float) -> str:
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]"


def _signal_rows(record: Mapping[str, Any]) -> Table:
    rows = [
        (
            row["signal"],
            row["arm"],
            str(row["iteration"]),
            f"{row['auroc']:.3f} [{row['low']:.3f}, {row['high']:.3f}]",
            str(row["n"]),
            f"{100 * row['right']:.0f} %",
            str(row["undefined"]),
        )
        for row in record["signals"]
    ]
    head = ("signal", "arm", "iteration", "AUROC", "n", "right", "without a value")
    return Table(f"{record['family']}, {record['group']}: what predicts", head, tuple(rows))


def signal_table(comparison: Path) -> list[dict[str, Any]]:
    """AUROC of every signal, by arm and iteration, prompts of all seeds together.

    The interval is a bootstrap over prompts.
    """
    gathered: dict[tuple[str, int], list[tuple[np.ndarray, Signals]]] = {}
    for run in comparison_runs(comparison):
        reader = RunReader(run)
        for t in sorted(reader.pairings):
            gathered.setdefault((run.parent.name, t), []).append(signals(reader, t))
    rows = []
    for (arm, t), parts in gathered.items():
        right = np.concatenate([one for one, _ in parts])
        for name in parts[0][1]:
            values = np.concatenate([values[name] for _, values in parts])
            rows += _measured(name, arm, t, values, right)
    return rows


def _measured(
    name: str, arm: str, t: int, values: np.ndarray, right: np.ndarray
) -> list[dict[str, Any]]:
    known = ~np.isnan(values) & ~np.isnan(right)
    value, label = values[known], right[known] == 1
    found = auroc(value, label)
    if not isinstance(found, float):
        return []
    generator = np.random.default_rng(0)
    drawn = []
    for _ in range(200):
        again = generator.integers(len(value), size=len(value))
        one = auroc(value[again], label[again])
        drawn += [one] if isinstance(one, float) else []
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return [
        {
            "signal": name,
            "arm": arm,
            "iteration": t,
            "auroc": found,
            "low": low,
            "high": high,
            "n": int(known.sum()),
            "right": float(label.mean()),
            "undefined": int((~known).sum()),
        }
    ]


def signals(reader: RunReader, t: int) -> tuple[np.ndarray, Signals]:
    """Per prompt of iteration t: whether its best sample is right, and what speaks for it.

    Best is the one with the highest likelihood per token under M_t. A prompt whose samples are all
    the same has no second one: its margin is the largest, and rankings cannot be compared.
    """
    stage = reader.needed("matrix", t)
    models = stage.summary(MatrixSummary).columns
    schema = pq.read_schema(stage.paths[0]).names
    answers = [name for name in schema if name.startswith("answer_") and name.count("_") == 1]
    wanted = [*BASE_COLUMNS, *(LOGP_PREFIX + m for m in models), "verifier", *answers, "extracted"]
    matrix = matrix_from_tables(
        list(stage.tables(wanted)), models, ["verifier", *answers], ["extracted"]
    )
    return _signals(matrix, reader, t, answers)


def _signals(
    matrix: ScoreMatrix, reader: RunReader, t: int, answers: Sequence[str]
) -> tuple[np.ndarray, Signals]:
    parts = reader.plan.parts[t]
    layout = Layout(matrix, parts.pairing, parts.reward)
    distinct = layout.groups.distinct & layout.usable
    tokens = np.maximum(layout.num_tokens, 1)
    likelihood = {
        model: np.where(distinct, _padded(matrix.logps[model], layout) / tokens, -np.inf)
        for model in matrix.logps
    }
    own = likelihood[f"M{t}"]
    best = own.argmax(axis=1)
    at = np.arange(len(best)), best
    ordered = np.sort(own, axis=1)
    margin = np.minimum(ordered[:, -1] - ordered[:, -2], LARGEST)
    right = np.where(distinct.any(axis=1), _padded(matrix.scores["verifier"], layout)[at], np.nan)
    copies = layout.groups.multiplicity
    found = {
        "vote share of the best": copies[at] / np.maximum(copies.sum(axis=1), 1),
        "likelihood of the best": own[at],
        "likelihood margin": margin,
    }
    for model, values in likelihood.items():
        if model == f"M{t}":
            continue
        tau = kendall_tau(_reward(own), _reward(values), distinct)
        found[f"tau with {model}"] = tau.values
        found[f"likelihood of the best under {model}"] = values[at]
        worst = np.where(distinct, own, np.inf).argmin(axis=1)
        low = values[np.arange(len(best)), worst]
        found[f"order under {model}"] = np.where(worst == best, np.nan, np.sign(values[at] - low))
    for name in answers:
        found[f"answer of {name.removeprefix('answer_')}"] = _padded(matrix.scores[name], layout)[
            at
        ]
    return right, found


def _padded(column: np.ndarray, layout: Layout) -> np.ndarray:
    rows = layout.groups.rows
    return np.where(rows >= 0, column[np.maximum(rows, 0)], np.nan)


def _reward(values: np.ndarray) -> Reward:
    finite = np.where(np.isfinite(values), values, np.nan)
    return Reward(finite, np.zeros_like(finite))


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
