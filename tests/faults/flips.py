"""One bit of one file of a run, flipped: is it named, and is nothing wrong read from it?

    python tests/faults/flips.py --flips 10000

Every flip is followed by what a user does next: `verify`, `status`, and either going on with the
run or reading all of it for a report. Right is: the damaged file is named, or every value read is
the one that was written. Wrong is any other exception, and any other value (silently wrong).
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

from cream.errors import CreamError
from cream.report.summary import status_of, summarise_run
from cream.runs.reader import RunReader
from cream.runs.verification import verify_run
from tiny_run import run_whole, tiny_recipe, write_inputs

READ_BY_NOBODY = ("README.md", "summary.json", ".lock", "comparison.json", "comparison.html")
"""Names of files that Cream writes for people and never reads."""


def everything(root: Path) -> Any:
    """Whatever a report, an export or a summary reads of a run, as plain values."""
    run = RunReader(root)
    return {
        "recipe": run.recipe.model_dump(mode="json"),
        "manifest": run.manifest,
        "summary": summarise_run(root).as_json(),
        "stages": {
            name: (
                stage.fingerprint,
                stage.figures,
                stage.inputs,
                stage.curve,
                [table.to_pylist() for table in stage.tables()],
            )
            for name, stage in run.finished.items()
        },
    }


class Flips:
    """A run, whole, and copies of it in which one bit is another."""

    def __init__(self, folder: Path) -> None:
        """Make the run in `folder`."""
        self.inputs = write_inputs(folder / "inputs")
        self.recipe = tiny_recipe(self.inputs, folder / "run")
        self.root = run_whole(self.recipe, self.inputs)
        self.truth = everything(self.root)
        self.files = [p for p in sorted(self.root.rglob("*")) if p.is_file() and p.stat().st_size]
        self.outcomes: Counter[tuple[str, str]] = Counter()
        self.wrong: list[str] = []

    def flip(self, rng: random.Random) -> None:
        """Flip a bit of a random file, look at what happens, and flip it back."""
        path = rng.choice(self.files)
        before = path.read_bytes()
        place, bit = rng.randrange(len(before)), rng.randrange(8)
        damaged = bytearray(before)
        damaged[place] ^= 1 << bit
        _put(path, bytes(damaged))
        kind = _kind(path.relative_to(self.root))
        try:
            outcome = self._outcome(path)
        except CreamError:
            outcome = "refused"
        except Exception:
            outcome = "traceback"
            self.wrong.append(f"{path} byte {place} bit {bit}: {traceback.format_exc(limit=-3)}")
        if outcome == "silently wrong":
            self.wrong.append(f"{path} byte {place} bit {bit}: silently wrong")
        self.outcomes[kind, outcome] += 1
        _put(path, before)

    def _outcome(self, path: Path) -> str:
        named = False
        for look in (lambda: verify_run(self.root).stages, lambda: status_of(self.root).stages):
            stages = look()
            named = named or any(str(path) in text for s in stages for text in s.problems)
            named = named or any(s.state == "damaged" for s in stages)
        if named:
            return "named"
        if path.name in READ_BY_NOBODY:
            return "read by nobody"
        return "harmless" if everything(self.root) == self.truth else "silently wrong"


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _kind(path: Path) -> str:
    if path.parts[0] == "models":
        return f"model {path.name}"
    return f"part {path.suffix}" if path.name.startswith("part-") else path.name


def told(outcomes: Counter[tuple[str, str]]) -> str:
    """A table of counts."""
    kinds = sorted({kind for kind, _ in outcomes})
    names = ("named", "refused", "harmless", "read by nobody", "silently wrong", "traceback")
    lines = [f"{'file':32}" + "".join(f"{name:>16}" for name in names)]
    for kind in kinds:
        lines.append(f"{kind:32}" + "".join(f"{outcomes[kind, name]:>16,}" for name in names))
    sums = [sum(count for (_, n), count in outcomes.items() if n == name) for name in names]
    return "\n".join([*lines, f"{'all':32}" + "".join(f"{count:>16,}" for count in sums)])


def main() -> None:
    """The long form."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--flips", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    folder, begun = Path(tempfile.mkdtemp()), time.monotonic()
    flips, rng = Flips(folder), random.Random(given.seed)
    try:
        for _ in range(given.flips):
            flips.flip(rng)
    except KeyboardInterrupt:  # what was tried until then counts
        pass
    finally:
        shutil.rmtree(folder)
    print(told(flips.outcomes))
    seconds = time.monotonic() - begun
    print(f"{flips.outcomes.total():,} flips in {seconds:.0f} s, {len(flips.wrong)} wrong")
    print("\n".join(flips.wrong[:20]))
    raise SystemExit(bool(flips.wrong))


if __name__ == "__main__":
    main()
