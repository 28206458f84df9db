"""A result of the benchmark: one row per comparison, and the document they are kept in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from cream.bench.floors import FORMULA, Floor
from cream.bench.rounds import Comparison


@dataclass(frozen=True, slots=True)
class Row:
    """Ours against one baseline, in one case."""

    name: str
    """Part and case, such as ``sampling: 64 x 5``."""
    baseline: str
    unit: str
    better: Literal["higher", "lower"]
    ours: float
    """Median over the rounds."""
    theirs: float
    ratio: float
    """ours / theirs."""
    low: float
    """Smallest ratio of a round."""
    high: float
    n: int
    """Rounds."""
    floor_share: float | None
    """Least possible time over our time; None where no floor is stated for the row."""
    foreign_cores: float | None = None
    """Work of other processes while this was measured, in cores; None if the system tells not."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Point:
    """Our own figure at one value of what is varied."""

    curve: str
    x: float
    x_name: str
    value: float
    unit: str
    n: int
    floor_share: float | None
    foreign_cores: float | None = None


@dataclass(slots=True)
class Document:
    """Everything one run of the benchmark found."""

    command: str
    machine: dict[str, Any]
    settings: dict[str, Any]
    floor: Floor | None = None
    rows: list[Row] = field(default_factory=list)
    points: list[Point] = field(default_factory=list)
    stages: list[dict[str, Any]] = field(default_factory=list)
    """Seconds per stage of a whole run of the recipe."""
    skipped: list[dict[str, str]] = field(default_factory=list)
    """Contestants or cases that were left out, each with the reason."""
    complete: bool = False
    """False if the run ended early; what was measured until then is here."""

    def as_json(self) -> dict[str, Any]:
        """JSON values, described by ``schemas/bench.json``."""
        floor = None if self.floor is None else {"formula": FORMULA, **asdict(self.floor)}
        rows = [{**asdict(row), "command": self.command} for row in self.rows]
        return {
            "command": self.command,
            "complete": self.complete,
            "machine": self.machine,
            "settings": self.settings,
            "floor": None if floor is None else {**floor, "products": list(floor["products"])},
            "rows": [{**row, "notes": list(row["notes"])} for row in rows],
            "points": [asdict(point) for point in self.points],
            "stages": self.stages,
            "skipped": self.skipped,
        }


def row_of(
    name: str,
    baseline: str,
    unit: str,
    found: Comparison,
    *,
    floor_share: float | None,
    foreign_cores: float | None,
    notes: tuple[str, ...] = (),
) -> Row:
    """Make a row of rates."""
    return Row(
        name=name,
        baseline=baseline,
        unit=unit,
        better="higher",
        ours=found.ours,
        theirs=found.theirs,
        ratio=found.ratio,
        low=found.low,
        high=found.high,
        n=found.num_rounds,
        floor_share=floor_share,
        foreign_cores=foreign_cores,
        notes=notes,
    )
