"""Does a method do what its page says, on a model small enough to train in a minute?

    make falsify METHOD=selm           # or: python scripts/falsify.py selm [--seeds 3] [--out DIR]

Each method has a module in ``falsifiers/`` with a function ``run(seeds) -> Falsified``: arms at
equal steps, figures per seed, and what must hold if the method is implemented as it says. A wrong
implementation (a sign, a mis-join, an order not reversed) is one of the arms, so that a test that
could not fail shows. Writes ``<method>.json`` and prints the table; exits with 1 if anything that
must hold does not.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("CREAM_KERNELS", "off")

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
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "related")
    given = parser.parse_args()
    began = time.perf_counter()
    found: Falsified = importlib.import_module(f"falsifiers.{given.method}").run(given.seeds)
    seconds = time.perf_counter() - began
    print(f"{found.method}: {found.setting}; {given.seeds} seeds, {seconds:.0f} s\n")
    print(table(found) + "\n")
    for claim in found.claims:
        print(f"[{'holds' if claim.holds else 'FAILS'}] {claim.kind}: {claim.says}: {claim.seen}")
    document: dict[str, Any] = {
        **asdict(found),
        "seeds": given.seeds,
        "seconds": round(seconds, 1),
        "command": f"python scripts/falsify.py {found.method} --seeds {given.seeds}",
    }
    given.out.mkdir(parents=True, exist_ok=True)
    path = given.out / f"{found.method}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"\nwrote {path}")
    return int(any(not claim.holds for claim in found.claims if claim.kind == "implemented"))


if __name__ == "__main__":
    sys.exit(main())
