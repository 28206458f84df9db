"""What a comparison cost, in seconds and in tokens; shared stages counted once.

A stage that several members share was made by one of them. What it cost is divided evenly among all
members that have it, so the methods' costs add up to what was spent, and no method pays for having
been listed first. Beside it stands what each method would have cost alone.

Tokens are those of completions: drawn (``sampled``, ``evaluated``), read for their log-probability
(``scored``, once per model) or trained on (``trained``, once per epoch). Prompts are not counted.
Fine-tuning, judges and reward models do not record theirs and are listed as not counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cream.runs.files import read_json, read_table, read_yaml
from cream.runs.sharing import POINTER
from cream.runs.store import DONE, RECIPE
from cream.runs.tables import NUM_TOKENS

Kind = Literal["sampled", "scored", "trained", "evaluated"]
KINDS: tuple[Kind, ...] = ("sampled", "scored", "trained", "evaluated")


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
) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Cost of each method and of the whole comparison, as JSON values.

    Args:
        runs: Method -> seed -> run directory.

    Returns:
        Per method, and for all: ``seconds`` and ``tokens`` (a method's share of shared stages; the
        shares add up to what was spent), ``seconds_alone`` and ``tokens_alone`` (all that its runs
        hold, as if nothing were shared), and ``not_counted``, the stages without tokens.
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
    costs = {name: _no_cost() for name in runs}
    for group in copies.values():
        _share_out(group, costs)
    for name, cost in costs.items():
        cost["not_counted"] = sorted(unknown[name])
    return costs, _sum(costs)


def _share_out(group: list[StageCost], costs: Mapping[str, dict[str, Any]]) -> None:
    """Add one stage to the costs of the methods that have it."""
    made = [cost for cost in group if cost.made_here] or group[:1]
    for cost in group:
        mine = costs[cost.method]
        mine["seconds"] += sum(c.seconds for c in made) / len(group)
        mine["seconds_alone"] += cost.seconds
        for kind, count in (cost.tokens or {}).items():
            mine["tokens"][kind] += count * len(made) / len(group)
            mine["tokens_alone"][kind] += count


def _no_cost() -> dict[str, Any]:
    return {
        "seconds": 0.0,
        "seconds_alone": 0.0,
        "tokens": dict.fromkeys(KINDS, 0.0),
        "tokens_alone": dict.fromkeys(KINDS, 0.0),
    }


def _sum(costs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    total = _no_cost()
    for cost in costs.values():
        for key in ("seconds", "seconds_alone"):
            total[key] += cost[key]
        for key in ("tokens", "tokens_alone"):
            for kind in KINDS:
                total[key][kind] += cost[key][kind]
    total["not_counted"] = sorted({stage for c in costs.values() for stage in c["not_counted"]})
    return total


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
    lengths = pairs["chosen_tokens"] + pairs["rejected_tokens"]
    return float(lengths * summary["tally"]["parts"]["trained"] * epochs)
