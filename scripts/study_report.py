"""What the study found: tables and a figure from the stored records, no model loaded.

Gains are percentage points of greedy accuracy over M1 of the same arm, with intervals that draw
seeds and test prompts again (`cream.algorithms.two_level`). The AUROC of a signal is over prompts:
how well it tells those whose best sample by likelihood is right from the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cream.report.comparison import (
    Comparison,
    SeedsDifference,
    comparison_runs,
)
from cream.report.signals import (
    PromptSignals,
    SignalQuality,
    by_parts,
    prompt_signals,
    signal_quality,
)
from cream.report.table import Table, markdown
from cream.runs.reader import RunReader

GROUPS = {
    "whole": "M1 on all seed examples",
    "halves": "M1 and its witness on half of the seed examples each",
    "thirds": "M1 and two witnesses on a third of the seed examples each",
    "published": "as published: no likelihood, no replay, unanimous prompts dropped",
    "greedy": "trained on its greedy answers, whatever they are",
    "known": "the control, prompts of lengths that M1 was fine-tuned on",
}
SIGNALS_OF, SIGNALS_IN = ("unanimous", "srlm-implicit", "cross-answer"), ("", "sure")
"""Arms and variants whose signals are told."""
MADE_HERE = "<!-- from here on made by `scripts/study.py report` -->"
FIGURE_WIDTH, BAR, LABEL = 720, 18, 240
CHOSEN_ON, CONTROLS = "reverse", ("cream-set-known", "control")
"""Family that sizes and rates were chosen on; arms of prompts that M1 knows, most steps first."""
OF_ROW = ("arm", "iteration", "right")
"""What a row of the signal table has beside the quality of its signal."""
ROOM = 5.0
"""Points that the oracle must gain for a family to say what share of them others gain."""
RESAMPLES = 2000


def write_report(runs: Path, results: Path) -> None:
    """Write ``study.json`` and ``study.svg`` to a folder, and the tables into its ``study.md``."""
    found = list(_comparisons(runs))
    records = [
        {
            "family": told["family"],
            "variant": told["variant"],
            "group": group,
            "seconds": told["seconds"],
            "environment": told["environment"],
            "comparison": comparison.as_json(),
            "signals": signal_table(runs / folder / group) if told["variant"] in SIGNALS_IN else [],
        }
        for folder, group, told, comparison in found
    ]
    text = json.dumps(records, indent=1, default=str)
    (results / "study.json").write_text(text + "\n", encoding="utf-8")
    rows = [
        (f"{place}, {group}: {method.name}", method.models[-1].gain)
        for place, group, _, comparison in found
        for method in comparison.methods
    ]
    (results / "study.svg").write_text(figure(rows), encoding="utf-8")
    tables = [*over_families(records), *by_variant(records)]
    blocks = [_titled(table) for table in tables]
    blocks += [block for record in records for block in _blocks(record)]
    page = results / "study.md"
    told, _, _ = page.read_text(encoding="utf-8").partition(MADE_HERE)
    page.write_text(f"{told}{MADE_HERE}\n\n{chr(10).join(blocks)}", encoding="utf-8")


def _comparisons(runs: Path) -> Iterator[tuple[str, str, Any, Comparison]]:
    for path in sorted(runs.glob("*/study.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        for group in GROUPS:
            stored = path.parent / group / "comparison.json"
            if stored.exists():
                found = Comparison.model_validate_json(stored.read_text(encoding="utf-8"))
                yield path.parent.name, group, told, found


def _blocks(record: Mapping[str, Any]) -> Iterator[str]:
    comparison = Comparison.model_validate(record["comparison"])
    names = [model.model for model in comparison.methods[0].models]
    gained = _gains_by_seed(record)
    rows = []
    for method in comparison.methods:
        accuracies = [f"{100 * model.accuracy:.1f}" for model in method.models[1:]]
        share = _share(gained[method.name], gained.get("oracle", {}))
        right = [
            "" if it.chosen_right.share is None else f"{100 * it.chosen_right.share:.0f}"
            for it in method.iterations
        ]
        used = [str(it.chosen_right.n) for it in method.iterations]
        rows.append(
            (
                method.name,
                str(len(method.models[-1].seeds)),
                *accuracies,
                _gain(method.models[-1].gain),
                "" if share is None else f"{100 * share:.0f} %",
                " ".join(right),
                " ".join(used),
            )
        )
    first = comparison.methods[0].models[-1]
    seeds, answers = comparison.seeds, first.n // len(first.seeds)
    place = ", ".join(filter(None, (record["family"], record["variant"])))
    title = (
        f"{place}: {GROUPS[record['group']]}; seeds {', '.join(map(str, seeds))}, "
        f"{answers} greedy answers a model and seed"
    )
    head = (
        "arm",
        "seeds",
        *names[1:],
        "gain, points",
        "of the oracle's",
        "chosen right, %",
        "of n",
    )
    yield _titled(Table(title, head, tuple(rows)))
    for arm in SIGNALS_OF:
        measured = [row for row in record["signals"] if row["arm"] == arm]
        if measured:
            yield _titled(_signal_rows(f"{place}, {record['group']}, {arm}", measured))


def over_families(records: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """What each arm gains, over the control and of the oracle's gain, family by family.

    A table for the recipe as it is, and one for every variant of it that ran on several families.

    The last two columns are over the families that nothing was chosen on and where the oracle gains
    `ROOM` points or more. Their intervals draw the seeds of each family again, not the families.
    """
    for variant in dict.fromkeys(record["variant"] for record in records):
        yield from _over_families([r for r in records if r["variant"] == variant], variant)


def _over_families(records: Sequence[Mapping[str, Any]], variant: str) -> Iterator[Table]:
    gains = {family: _by_seed(records, family) for family in _families(records)}
    gains = {family: found for family, found in gains.items() if "oracle" in found}
    unseen = [f for f, found in gains.items() if f != CHOSEN_ON and found["oracle"].mean() >= ROOM]
    arms = dict.fromkeys(arm for of in gains.values() for arm in of if arm not in CONTROLS)
    if not unseen:
        return
    control = next((c for c in CONTROLS if all(c in gains[family] for family in unseen)), None)
    rows = []
    for arm in arms:
        there = [gains[family] for family in unseen if arm in gains[family]]
        shares = ["", ""]
        if len(there) == len(unseen):
            shares[0] = _percent(_drawn(there, partial(_ratio, arm=arm, control=None)))
        if len(there) == len(unseen) and control:
            shares[1] = _percent(_drawn(there, partial(_ratio, arm=arm, control=control)))
        rows.append((arm, *_means(gains, arm), *shares))
    known = [c for c in CONTROLS if any(c in found for found in gains.values())]
    rows += [(c, *_means(gains, c), "", "") for c in known]
    counts = [f"{family}, {len(found['oracle'])} seeds" for family, found in gains.items()]
    title = f"Gain of the last model over M1, points; unseen families: {', '.join(unseen)}"
    title += f"; variant: {variant}" if variant else ""
    head = ("arm", *counts, "of the oracle's gain, unseen", f"the same less {control}'s")
    yield Table(title, head, tuple(rows))


def by_variant(records: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """What each arm gains under other sizes, on the family on which the sizes were chosen."""
    there = [r for r in records if r["family"] == CHOSEN_ON and r["group"] == "whole"]
    found = {r["variant"]: Comparison.model_validate(r["comparison"]) for r in there}
    if len(found) < 2:
        return
    gains = {v: {m.name: m.models[-1].gain for m in c.methods} for v, c in found.items()}
    arms = dict.fromkeys(arm for variant, of in gains.items() if variant for arm in of)
    rows = [(arm, *(_with_seeds(of.get(arm)) for of in gains.values())) for arm in arms]
    title = f"{CHOSEN_ON}: gain of the last model over M1, points, by variant; seeds"
    yield Table(title, ("arm", *(variant or "as it is" for variant in found)), tuple(rows))


def _gain(gain: SeedsDifference | None) -> str:
    return "" if gain is None else _points(gain.difference, gain.low, gain.high)


def _with_seeds(gain: SeedsDifference | None) -> str:
    return "" if gain is None else f"{_gain(gain)}; {len(gain.seeds)}"


def _means(gains: Mapping[str, Mapping[str, np.ndarray]], arm: str) -> Iterator[str]:
    return (f"{found[arm].mean():+.1f}" if arm in found else "" for found in gains.values())


def _families(records: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(record["family"] for record in records if record["group"] == "whole"))


def _by_seed(records: Sequence[Mapping[str, Any]], family: str) -> dict[str, np.ndarray]:
    """Gain of the last model over M1 by arm, points, a seed each."""
    gains: dict[str, dict[str, float]] = {}
    for record in records:
        if record["family"] == family and record["group"] in ("whole", "known"):
            gains |= _gains_by_seed(record)
    return {arm: np.array([found[seed] for seed in sorted(found)]) for arm, found in gains.items()}


def _gains_by_seed(record: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Arm -> seed -> gain of the last model over M1, points."""
    found = {}
    for method in record["comparison"]["methods"]:
        first, last = method["models"][1]["by_seed"], method["models"][-1]["by_seed"]
        found[method["name"]] = {seed: 100 * (last[seed] - first[seed]) for seed in last}
    return found


def _share(gains: Mapping[str, float], best: Mapping[str, float]) -> float | None:
    """Of the oracle's gain on the same seeds; None where it has none."""
    both = [seed for seed in gains if seed in best]
    there = sum(best[seed] for seed in both)
    return sum(gains[seed] for seed in both) / there if there > 0 else None


def _ratio(means: Sequence[Mapping[str, float]], arm: str, control: str | None) -> float:
    """Mean over families of an arm's share of the oracle's gain, less the control's off both."""
    shares = []
    for found in means:
        less = found[control] if control else 0.0
        shares.append((found[arm] - less) / (found["oracle"] - less))
    return float(np.mean(shares))


def _drawn(
    families: Sequence[Mapping[str, np.ndarray]],
    of: Callable[[Sequence[Mapping[str, float]]], float],
) -> tuple[float, float, float]:
    """A figure of the means over seeds, with its 95 % interval over drawn seeds."""
    generator = np.random.default_rng(0)
    seeds = [len(found["oracle"]) for found in families]

    def means(chosen: Sequence[np.ndarray]) -> list[dict[str, float]]:
        return [
            {arm: float(values[picked].mean()) for arm, values in found.items()}
            for found, picked in zip(families, chosen, strict=True)
        ]

    drawn = [of(means([generator.integers(n, size=n) for n in seeds])) for _ in range(RESAMPLES)]
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return of(means([np.arange(n) for n in seeds])), low, high


def _percent(found: tuple[float, float, float]) -> str:
    value, low, high = (100 * part for part in found)
    return f"{value:.0f} % [{low:.0f}, {high:.0f}]"


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
    title = f"{place}: AUROC of signals, n: % right from the least to the most of the signal"
    return Table(title, ("signal", *head), tuple(rows))


def _auroc(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return ""
    quality = SignalQuality.model_validate({k: v for k, v in row.items() if k not in OF_ROW})
    told = f"{quality.auroc:.2f} [{quality.low:.2f}, {quality.high:.2f}], {quality.n}"
    return f"{told}: {by_parts(quality)}"


def signal_table(comparison: Path) -> list[dict[str, Any]]:
    """AUROC of signals by arm of `SIGNALS_OF` and iteration, prompts of all seeds together."""
    gathered: dict[tuple[str, int], list[PromptSignals]] = {}
    for run in comparison_runs(comparison):
        if run.parent.name not in SIGNALS_OF:
            continue
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
