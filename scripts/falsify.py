"""Does a method do what its page says, on a model small enough to train in a minute?

    make falsify METHOD=selm           # or: python scripts/falsify.py selm [--seeds 3] [--out DIR]

Each method has a module in ``falsifiers/`` with a function ``run(seeds) -> Falsified``: arms at
equal steps, figures per seed, and what must hold if the method is implemented as it says. A wrong
implementation (a sign, a mis-join, an order not reversed) is one of the arms, so that a test that
could not fail shows. Writes ``<method>.json`` and prints the table; exits with 1 if anything that
must hold does not.

    make falsify METHOD=selm MODEL=embedded

asks the same of SmolLM2-135M-Instruct: ``recipes/related/selm.yaml`` with its arms as a comparison
(`cream compare`; resumed where it was stopped), and ``embedded-selm.json``, with differences to the
first arm, paired by seed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from scipy.stats import sem, t

from cream.runs.manifest import describe_environment

ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Arm:
    """One training, with its figures: a value per seed under each name."""

    name: str
    figures: dict[str, list[float]]

    def spread(self, name: str) -> str:
        """Lowest and highest value of a figure."""
        low, high = min(self.figures[name]), max(self.figures[name])
        return f"{low:+.3f}" if f"{low:.3f}" == f"{high:.3f}" else f"{low:+.3f}..{high:+.3f}"


@dataclass(frozen=True)
class Claim:
    """Something that must hold, or, of `helps`, that would be good."""

    says: str
    seen: str
    holds: bool
    kind: str = "implemented"


@dataclass(frozen=True)
class Falsified:
    """What came out."""

    method: str
    setting: str
    arms: list[Arm]
    claims: list[Claim]
    baseline: str | None = None
    """The arm that others are compared with."""
    seconds: float | None = None
    """Of trainings made before this call; None: all were made in it."""


@dataclass(frozen=True)
class Mean:
    """Over seeds, with the 95 % t interval."""

    mean: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}], n = {self.n}"


def mean_of(values: Sequence[float]) -> Mean:
    """Mean of independent values, at least two, with its interval."""
    centre = sum(values) / len(values)
    error = float(sem(values))
    half = float(t.ppf(0.975, len(values) - 1)) * error
    return Mean(centre, centre - half, centre + half, len(values))


def differences(found: Falsified) -> dict[str, dict[str, Mean]]:
    """Every figure of every other arm minus the baseline's, paired by seed."""
    of = {arm.name: arm.figures for arm in found.arms}
    base = of.pop(found.baseline or "")
    return {
        name: {
            key: mean_of([a - b for a, b in zip(values, base[key], strict=True)])
            for key, values in figures.items()
            if key in base and len(values) > 1
        }
        for name, figures in of.items()
    }


def table(found: Falsified) -> str:
    """Arms as rows, the spread over seeds of each figure as cells."""
    names = list(dict.fromkeys(name for arm in found.arms for name in arm.figures))
    rows = [["arm", *names]]
    rows += [
        [arm.name, *(arm.spread(n) if n in arm.figures else "" for n in names)]
        for arm in found.arms
    ]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(lines)


def main() -> int:
    """Run one method's falsifier."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("method")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--model", choices=("tiny", "embedded"), default="tiny")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/falsify")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "related")
    given = parser.parse_args()
    began = time.perf_counter()
    if given.model == "tiny":
        os.environ.setdefault("CREAM_KERNELS", "off")
        found: Falsified = importlib.import_module(f"falsifiers.{given.method}").run(given.seeds)
    else:
        embedded = importlib.import_module("falsifiers.embedded")
        found = embedded.run(given.method, given.seeds, given.runs / given.method)
    seconds = time.perf_counter() - began if found.seconds is None else found.seconds
    print(f"{found.method}: {found.setting}; {given.seeds} seeds, {seconds:.0f} s\n")
    print(table(found) + "\n")
    for claim in found.claims:
        print(f"[{'holds' if claim.holds else 'FAILS'}] {claim.kind}: {claim.says}: {claim.seen}")
    command = f"python scripts/falsify.py {found.method} --seeds {given.seeds}"
    document: dict[str, Any] = {
        "method": found.method,
        "setting": found.setting,
        "arms": [asdict(arm) for arm in found.arms],
        "claims": [asdict(claim) for claim in found.claims],
        "seeds": given.seeds,
        "seconds": round(seconds, 1),
        "command": command if given.model == "tiny" else f"{command} --model embedded",
    }
    name = found.method
    if found.baseline is not None:
        name = f"embedded-{found.method}"
        compared = {
            arm: {k: asdict(v) for k, v in of.items()} for arm, of in differences(found).items()
        }
        document |= {
            "baseline": found.baseline,
            "differences": compared,
            "environment": describe_environment(),
        }
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{name}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"\nwrote {path}")
    return int(any(not claim.holds for claim in found.claims if claim.kind == "implemented"))


if __name__ == "__main__":
    sys.exit(main())
