"""What a comparison cost, in seconds and in tokens; shared stages counted once.

A stage that several members share was made by one of them. What it cost is divided evenly among all
members that have it, so the methods' costs add up to what was spent, and no method pays for having
been listed first. Beside it stands what each method would have cost alone.

Tokens are those of completions: drawn (``sampled``, ``evaluated``), read for their log-probability
(``scored``, once per model) or trained on (``trained``, once per epoch). Prompts are not counted.
Fine-tuning, judges and reward models do not record theirs and are listed as not counted.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cream.records import Record
from cream.runs.files import read_json, read_table, read_yaml
from cream.runs.sharing import POINTER
from cream.runs.store import DONE, RECIPE
from cream.runs.tables import NUM_TOKENS

Kind = Literal["sampled", "scored", "trained", "evaluated"]
KINDS: tuple[Kind, ...] = ("sampled", "scored", "trained", "evaluated")
Sums = defaultdict[str, float]
"""Seconds and tokens, those alone under a name of their own."""


class Tokens(Record):
    """Completion tokens by what was done with them."""

    sampled: float = 0.0
    scored: float = 0.0
    trained: float = 0.0
    evaluated: float = 0.0


class Cost(Record):
    """What the runs of a method cost, or all runs."""

    seconds: float
    """Shared stages once, divided evenly."""
    seconds_alone: float
    """As if nothing were shared."""
    tokens: Tokens
    tokens_alone: Tokens
    not_counted: list[str]
    """Stages that run a model and do not record its tokens."""


@dataclass(frozen=True, slots=True)
class StageCost:
    """One stage that a member has."""

    method: str
    made_here: bool
    """Not taken over from another member."""
    seconds: float
    tokens: Mapping[Kind, float] | None
    """None if the stage runs a model and does not record its tokens."""


def comparison_cost(
    runs: Mapping[str, Mapping[int, Path]],
) -> tuple[dict[str, Cost], Cost]:
    """Cost of each method and of the whole comparison.

    Args:
        runs: Method -> seed -> run directory.
    """
    copies: dict[tuple[int, str, str], list[StageCost]] = {}
    unknown: dict[str, set[str]] = {name: set() for name in runs}
    for method, by_seed in runs.items():
        for seed, run in by_seed.items():
            for done in sorted(run.rglob(DONE)):
                stage = str(done.parent.relative_to(run))
                record = read_json(done)
                cost = _stage_cost(method, run, stage, record)
                copies.setdefault((seed, stage, record["fingerprint"]), []).append(cost)
                if cost.tokens is None:
                    unknown[method].add(stage)
    sums: dict[str, Sums] = {name: defaultdict(float) for name in runs}
    for group in copies.values():
        _share_out(group, sums)
    costs = {name: _cost(found, unknown[name]) for name, found in sums.items()}
    total = {
        key: sum(s[key] for s in sums.values()) for key in {k for s in sums.values() for k in s}
    }
    return costs, _cost(total, {stage for names in unknown.values() for stage in names})


def _share_out(group: list[StageCost], sums: Mapping[str, Sums]) -> None:
    """Add one stage to the costs of the methods that have it."""
    made = [cost for cost in group if cost.made_here] or group[:1]
    for cost in group:
        mine = sums[cost.method]
        mine["seconds"] += sum(c.seconds for c in made) / len(group)
        mine["seconds_alone"] += cost.seconds
        for kind, count in (cost.tokens or {}).items():
            mine[kind] += count * len(made) / len(group)
            mine[f"{kind}_alone"] += count


def _cost(found: Mapping[str, float], not_counted: Iterable[str]) -> Cost:
    return Cost(
        seconds=found.get("seconds", 0.0),
        seconds_alone=found.get("seconds_alone", 0.0),
        tokens=Tokens(**{kind: found.get(kind, 0.0) for kind in KINDS}),
        tokens_alone=Tokens(**{kind: found.get(f"{kind}_alone", 0.0) for kind in KINDS}),
        not_counted=sorted(not_counted),
    )


def _stage_cost(method: str, run: Path, stage: str, record: Mapping[str, Any]) -> StageCost:
    return StageCost(
        method=method,
        made_here=not (run / stage / POINTER).exists(),
        seconds=record["seconds"],
        tokens=_tokens(run, stage, record),
    )


def _tokens(run: Path, stage: str, record: Mapping[str, Any]) -> Mapping[Kind, float] | None:
    """Tokens of a stage by kind; empty if it runs no model, None if they are not recorded."""
    match stage.split("/"):
        case [*_, "sample"]:
            return {"sampled": float(record["summary"]["tokens"])}
        case [*_, "evaluate"]:
            return {"evaluated": _column_sum(run / stage)}
        case [*_, "score", ("judge" | "reward_model")]:
            return None
        case [*_, "score", _] if "noise" in record["summary"]:
            return {"scored": _column_sum(run / stage)}
        case ["sft" | "witnesses", *_, "train"]:
            return None
        case [*folder, "train"]:
            return {"trained": _trained_tokens(run, "/".join(folder), record["summary"])}
    return {}


def _column_sum(folder: Path) -> float:
    parts = sorted(folder.glob("part-*.parquet"))
    return float(sum(sum(read_table(p, [NUM_TOKENS])[NUM_TOKENS].to_pylist()) for p in parts))


def _trained_tokens(run: Path, folder: str, summary: Mapping[str, Any]) -> float:
    """Of chosen and rejected, as often as they are seen; 0 where the training was skipped."""
    if summary["skipped"] is not None:
        return 0.0
    pairs = read_json(run / folder / "pair" / DONE)["summary"]
    epochs = read_yaml(run / RECIPE)["training"]["epochs"]
    lengths = (pairs["chosen_tokens"] or 0.0) + (pairs["rejected_tokens"] or 0.0)
    return float(lengths * summary["tally"]["parts"]["trained"] * epochs)
