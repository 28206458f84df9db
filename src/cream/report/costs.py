"""What a comparison cost, in seconds and in tokens; shared stages counted once.

A stage that several members share was made by one of them. What it cost is divided evenly among all
members that have it, so the methods' costs add up to what was spent, and no method pays for having
been listed first. Beside it stands what each method would have cost alone.

Tokens are those of completions: drawn (``sampled``, ``evaluated``), read for their log-probability
(``scored``, once per model) or trained on (``trained``, once per epoch). Prompts are not counted.
Fine-tuning, scorers of text and what a transform makes do not record theirs and are listed as not
counted; where that is all there was of a kind, there is no count of it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from cream.pair_records import EditSummary, PairSummary, TokenHeadSummary, TokenRewardSummary
from cream.records import (
    AdvantageSummary,
    AnswerSummary,
    Record,
    SampleSummary,
    TrainSummary,
)
from cream.runs.reader import FinishedStage, RunReader
from cream.runs.tables import NUM_TOKENS

Kind = Literal["sampled", "scored", "trained", "evaluated"]
KINDS: tuple[Kind, ...] = ("sampled", "scored", "trained", "evaluated")
NOT_RECORDED: Mapping[str, Kind] = {
    "fine_tune": "trained",
    "train": "trained",
    "text_score": "scored",
    "score_examples": "scored",
}
"""What a stage of this kind does with tokens that it may not have recorded."""
Sums = defaultdict[str, float]
"""Seconds and tokens, those alone under a name of their own."""


class Tokens(Record):
    """Completion tokens by what was done with them; None if no stage that did so recorded any."""

    sampled: float | None
    scored: float | None
    trained: float | None
    evaluated: float | None


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
    runs: Mapping[str, Mapping[int, RunReader]],
) -> tuple[dict[str, Cost], Cost]:
    """Cost of each method and of the whole comparison.

    Args:
        runs: Method -> seed -> run.
    """
    copies: dict[tuple[int, str, str], list[StageCost]] = {}
    unknown: dict[str, dict[str, Kind]] = {name: {} for name in runs}
    for method, by_seed in runs.items():
        for seed, run in by_seed.items():
            for name, stage in run.finished.items():
                tokens = stage_tokens(run, stage)
                cost = StageCost(method, not stage.is_shared, stage.seconds, tokens)
                copies.setdefault((seed, name, stage.fingerprint), []).append(cost)
                if tokens is None:
                    unknown[method][name] = NOT_RECORDED[stage.spec.kind]
    sums: dict[str, Sums] = {name: defaultdict(float) for name in runs}
    for group in copies.values():
        _share_out(group, sums)
    costs = {name: _cost(found, unknown[name]) for name, found in sums.items()}
    total = {
        key: sum(s[key] for s in sums.values()) for key in {k for s in sums.values() for k in s}
    }
    return costs, _cost(
        total, {k: kind for stages in unknown.values() for k, kind in stages.items()}
    )


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


def _cost(found: Mapping[str, float], not_counted: Mapping[str, Kind]) -> Cost:
    nothing = {kind: None if kind in not_counted.values() else 0.0 for kind in KINDS}
    return Cost(
        seconds=found.get("seconds", 0.0),
        seconds_alone=found.get("seconds_alone", 0.0),
        tokens=Tokens(**{kind: found.get(kind, nothing[kind]) for kind in KINDS}),
        tokens_alone=Tokens(**{kind: found.get(f"{kind}_alone", nothing[kind]) for kind in KINDS}),
        not_counted=sorted(not_counted),
    )


def stage_tokens(run: RunReader, stage: FinishedStage) -> Mapping[Kind, float] | None:
    """Tokens of a stage by kind; empty if it runs no model, None if they are not recorded."""
    match stage.spec.kind:
        case "sample":
            return {"sampled": float(stage.summary(SampleSummary).tokens)}
        case "edit":
            return {"sampled": float(stage.summary(EditSummary).written_tokens)}
        case "answer":
            return {"sampled": float(stage.summary(AnswerSummary).tokens)}
        case "evaluate" | "evaluate_goal":
            return {"evaluated": _column_sum(stage)}
        case "score" | "score_tokens" | "certainty":
            return {"scored": _column_sum(stage)}
        case "token_reward" if stage.spec.model is not None:
            return {"scored": float(stage.summary(TokenRewardSummary).tokens)}
        case "token_head":
            return {"scored": float(stage.summary(TokenHeadSummary).tokens)}
        case "train":
            trained = _trained_tokens(run, stage)
            return None if trained is None else {"trained": trained}
        case "text_score" | "score_examples" | "fine_tune":
            return None
    return {}


def _column_sum(stage: FinishedStage) -> float:
    return float(sum(sum(table[NUM_TOKENS].to_pylist()) for table in stage.tables([NUM_TOKENS])))


def _trained_tokens(run: RunReader, stage: FinishedStage) -> float | None:
    """As often as they are seen; 0 where the training was skipped.

    None where it is not recorded: examples that a transform made or that came beside, prompts of
    which some were too long.
    """
    summary = stage.summary(TrainSummary)
    if summary.skipped is not None:
        return 0.0
    read = [spec for spec in run.plan.stages if spec.name in stage.spec.inputs]
    if summary.replayed or any(spec.kind == "transform" for spec in read):
        return None
    weighed = [run.finished[spec.name] for spec in read if spec.kind == "advantage"]
    if weighed:
        tokens = weighed[0].summary(AdvantageSummary).trained_tokens
        whole = summary.tally.parts["trained"] == summary.tally.total
        return float(tokens * stage.spec.epochs) if whole else None
    (paired,) = (spec.name for spec in read if spec.kind == "pair")
    pairs = run.finished[paired].summary(PairSummary)
    lengths = (pairs.chosen_tokens or 0.0) + (pairs.rejected_tokens or 0.0)
    return float(lengths * summary.tally.parts["trained"] * stage.spec.epochs)
