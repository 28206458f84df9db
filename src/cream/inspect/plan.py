"""What a run is going to do and what that costs, before it does anything.

Stages and their counts come from the loop's outline, lengths from the data and from finished
stages, rates from a short timing (`cream.inspect.rates`) or from nowhere. What cannot be known
is null with a reason.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field
from rich.console import Console
from rich.text import Text

from cream.inspect.rates import Rates, StepCost
from cream.inspect.spread import (
    PlannedRanks,
    PlannedStep,
    PlannedWorkers,
    Spread,
    TrainingWork,
    spread_lines,
    training_work,
)
from cream.recipe import Recipe
from cream.records import Count, Record, SampleSummary, StageKind, StageSpec
from cream.report.table import Table, terminal
from cream.report.terminal import duration, printable, readable, size
from cream.runs.files import free_bytes
from cream.runs.plan import TokenCounts
from cream.runs.reader import State, finished_stage, progress_of
from cream.runs.store import part_files
from cream.types import AddedTokens

SCORED = ("score", "score_examples")
"""Kinds of stages that ask for log-probabilities: of workers, or of ranks (``scoring.ranks``)."""
ON_CREW = ("sample", "evaluate", "evaluate_goal", *SCORED)
"""Kinds of stages whose shards go to workers; the others work in this process."""
LETTER_TOKENS = 2
"""Of an answer to a verdict question: the letter, and the end of turn."""
BYTES_PER_TRAINED_WEIGHT = 16
"""Float32 weight, gradient and two moments; activations come on top."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long completions are taken to be, and why."""

    tokens: float
    source: str


class PlanRow(Record):
    """A stage of a plan."""

    stage: str
    label: str
    kind: StageKind
    state: State
    model: str | None
    prompts: Count
    completions: Count
    at_most: bool
    """The completions are the most there can be."""
    tokens: Count | None
    """Drawn, scored or trained on; null if none of the run's models is used."""
    seconds: float | None
    """Taken if finished, else estimated; null with a reason."""
    remaining_seconds: float | None
    reason: str | None
    step: PlannedStep | None = None
    """Of a training, if it has something to train on."""


class AssumedLength(Record):
    """How long completions are taken to be, and why."""

    mean: Annotated[float, Field(gt=0)]
    source: str


class PlannedMemory(Record):
    """Bytes that training needs for weights, gradients and moments, and that the timing held."""

    training_bytes: Count
    measured_bytes: Count | None


class PlannedDisk(Record):
    """Bytes that the run will write beside what is there, and that are free."""

    needed_bytes: Count
    free_bytes: Count


class Plan(Record):
    """What a recipe would do, and what it costs here."""

    name: str
    method: str
    seed: Count
    model: str
    run_dir: str
    stages: list[PlanRow]
    finished: Count
    remaining_seconds: float | None
    """Sum of what could be estimated; null without timing."""
    completion_tokens: AssumedLength
    timing: Rates | None
    memory: PlannedMemory
    disk: PlannedDisk
    workers: PlannedWorkers | None
    """Null where this process samples and scores."""
    ranks: list[PlannedRanks]
    """Of fine-tuning and of preference training."""


def assumed_length(
    root: Path, stages: Sequence[StageSpec], counts: Mapping[str, TokenCounts], limit: int
) -> Length:
    """Mean tokens of a completion: as sampled by this run if it has sampled, else as in the seed.

    Args:
        root: Run directory; need not exist.
        stages: Outline of the run.
        counts: Lengths per source.
        limit: Most tokens of a completion.
    """
    for stage in reversed(stages):
        record = finished_stage(root, stage)
        if stage.kind != "sample" or record is None:
            continue
        sampled = record.summary(SampleSummary)
        if sampled.completions:
            return Length(sampled.tokens / sampled.completions, f"sampled in {stage.name}")
    seed = [c.completion for c in counts.values() if c.completion is not None]
    return Length(min(sum(seed) / len(seed), float(limit)), "seed completions")


def make_plan(
    recipe: Recipe,
    root: Path,
    stages: Sequence[StageSpec],
    counts: Mapping[str, TokenCounts],
    length: Length,
    *,
    parameters: int,
    disk_bytes: int,
    rates: Rates | None,
    question: int = 0,
    spread: Spread | None = None,
) -> Plan:
    """Everything `cream plan` tells.

    Args:
        recipe: What is to be run.
        root: Its run directory; need not exist.
        stages: Outline of the run.
        counts: Lengths per source.
        length: Of completions, see `assumed_length`.
        parameters: Weights of the model.
        disk_bytes: What the run will write beside what is there.
        rates: Of this machine, of one worker or rank; None for counts only.
        question: Tokens of a verdict question without prompt and responses, and of both answers
            to it; read where the plan has verdicts.
        spread: Workers and ranks; None for one process.
    """
    spread = spread or Spread()
    edits = {stage.name for stage in stages if stage.kind == "edit"}
    rows = [
        _row(
            recipe, root, stage, counts[str(stage.source)], length, rates, question, spread
        ).model_copy(
            update={"at_most": stage.kind in ("train", "edit") or bool(edits & {*stage.inputs})}
        )
        for stage in stages
    ]
    left = [row.remaining_seconds for row in rows]
    return Plan(
        name=recipe.name,
        method=recipe.method.name,
        seed=recipe.seed,
        model=recipe.model.name,
        run_dir=str(root),
        stages=rows,
        finished=sum(row.state == "finished" for row in rows),
        remaining_seconds=None if rates is None else sum(s for s in left if s is not None),
        completion_tokens=AssumedLength(mean=length.tokens, source=length.source),
        timing=rates,
        memory=PlannedMemory(
            training_bytes=BYTES_PER_TRAINED_WEIGHT * parameters,
            measured_bytes=None if rates is None else rates.peak_bytes,
        ),
        disk=PlannedDisk(needed_bytes=disk_bytes, free_bytes=free_bytes(root)),
        workers=spread.workers,
        ranks=list(spread.ranks),
    )


def _row(
    recipe: Recipe,
    root: Path,
    stage: StageSpec,
    counts: TokenCounts,
    length: Length,
    rates: Rates | None,
    question: int,
    spread: Spread,
) -> PlanRow:
    tokens = _tokens(stage, counts, _length_of(stage, length, rates), question)
    trained = None if tokens is None else training_work(recipe, stage, tokens, spread)
    seconds, reason = _seconds(recipe, stage, tokens, rates, trained, spread)
    record = finished_stage(root, stage)
    done = 1.0 if record is not None else _kept_share(recipe, root, stage)
    return PlanRow(
        stage=stage.name,
        label=stage.label,
        kind=stage.kind,
        state=progress_of(root, stage),
        model=stage.model,
        prompts=stage.prompts,
        completions=stage.completions,
        at_most=stage.kind == "train",
        tokens=None if tokens is None else round(tokens),
        seconds=record.seconds if record is not None else seconds,
        remaining_seconds=0.0 if record is not None else _times(seconds, 1 - done),
        reason=None if record is not None else reason,
        step=None if trained is None else trained.step,
    )


def _times(seconds: float | None, share: float) -> float | None:
    return None if seconds is None else seconds * share


def _kept_share(recipe: Recipe, root: Path, stage: StageSpec) -> float:
    """Share of the prompts whose part is on disk."""
    parts = len(part_files(root / stage.name))
    return min(parts * _prompts_per_shard(recipe, stage) / stage.prompts, 1.0)


def _prompts_per_shard(recipe: Recipe, stage: StageSpec) -> int:
    evaluated = stage.kind in ("evaluate", "evaluate_goal")
    return (recipe.evaluation if evaluated else recipe.sampling).prompts_per_shard


def _length_of(stage: StageSpec, length: Length, rates: Rates | None) -> float:
    """Only M0 does not know yet how long an answer should be."""
    limit = float(stage.max_completion_tokens or math.inf)
    if stage.kind not in ("evaluate", "evaluate_goal") or stage.model != "M0":
        return min(length.tokens, limit)
    answers = None if rates is None else rates.seed_model_tokens
    return limit if answers is None else min(answers, limit)


def _tokens(stage: StageSpec, counts: TokenCounts, length: float, question: int) -> float | None:
    """Tokens drawn, scored or trained on; None if no model runs, or another one than the run's."""
    match stage.kind:
        case "sample" | "evaluate" | "evaluate_goal":
            return stage.completions * length
        case "edit":  # half of what there can be is edits
            return None if stage.model is None else stage.completions / 2 * length
        case "answer":  # one for each prompt, whatever is compared with it
            return stage.prompts * length
        case "token_reward" | "token_head":  # every completion with its prompt
            read = stage.completions * (counts.prompt + length)
            return None if stage.model is None else read
        case "score" | "score_examples" | "score_tokens" | "certainty":
            return stage.prompts * counts.prompt + stage.completions * length
        case "fine_tune":
            completion = length if counts.completion is None else counts.completion
            return stage.epochs * stage.completions * (counts.prompt + completion)
        case "train":
            if stage.examples:
                read = stage.examples * counts.prompt + stage.completions * length
                return stage.epochs * read
            pairs, added = stage.completions / 2, stage.added or AddedTokens()
            prompt, completion = 1 + added.prompts, 2 + added.completions
            more = added.verdicts * question
            return stage.epochs * pairs * (prompt * counts.prompt + completion * length + more)
        case _:
            return None


def _seconds(
    recipe: Recipe,
    stage: StageSpec,
    tokens: float | None,
    rates: Rates | None,
    trained: TrainingWork | None,
    spread: Spread,
) -> tuple[float | None, str | None]:
    """An estimate, or why there is none."""
    if stage.kind == "text_score":
        return None, "judges and reward models are not timed"
    if tokens is None:
        return None, "no model runs; seconds"
    if rates is None:
        return None, "not timed"
    crewed = tokens
    if stage.kind in ON_CREW and (recipe.scoring.ranks == 1 or stage.kind not in SCORED):
        crewed *= spread.share_of_worker(
            max(1, math.ceil(stage.prompts / _prompts_per_shard(recipe, stage)))
        )
    match stage.kind:
        case "sample" | "evaluate" | "evaluate_goal" | "answer" | "edit":
            return rates.start_seconds + crewed / rates.sampled_per_second, None
        case (
            "score"
            | "score_examples"
            | "score_tokens"
            | "certainty"
            | "token_reward"
            | "token_head"
        ):
            return rates.load_seconds + crewed / rates.scored_per_second, None
        case "fine_tune":
            return rates.load_seconds + _trained(trained, rates.fine_tuning), None
        case "train":
            return rates.load_seconds + _trained(trained, rates.training), None
        case _:
            raise ValueError(stage.kind)  # has no tokens, answered above


def _trained(work: TrainingWork | None, cost: StepCost) -> float:
    return 0.0 if work is None else work.seconds(cost)


STATES = {"finished": "done", "begun": "begun", "missing": ""}


def print_plan(console: Console, plan: Plan) -> None:
    """Print a plan."""
    console.print(terminal(plan_table(plan)))
    for line in _plan_lines(plan):
        console.print(Text(readable(line)), soft_wrap=True)


def plan_table(plan: Plan) -> Table:
    """A row per stage."""
    rows = [
        (
            f"{number:>2} {row.label}",
            f"{row.prompts:,}",
            f"{'≤ ' if row.at_most else ''}{row.completions:,}",
            "" if row.tokens is None else f"{row.tokens:,}",
            _time(row),
            STATES[row.state],
        )
        for number, row in enumerate(plan.stages, start=1)
    ]
    title = f"{plan.name}: method {plan.method}, seed {plan.seed}, {plan.model}"
    return Table(title, ("stage", "prompts", "completions", "tokens", "time", ""), tuple(rows))


def _time(row: PlanRow) -> str:
    if row.seconds is None:
        return "" if row.kind != "text_score" else "?"
    words = duration(row.seconds)
    return words if row.state == "finished" else f"~{words}"


def _plan_lines(plan: Plan) -> list[str]:
    total, memory, disk = len(plan.stages), plan.memory, plan.disk
    lines = [f"done: {plan.finished} of {total} stages in {printable(plan.run_dir)}"]
    if plan.remaining_seconds is not None:
        unknown = [row.label for row in plan.stages if row.kind == "text_score"]
        more = f", and what takes a judge or reward model ({len(unknown)} stages)"
        lines.append(f"left: about {duration(plan.remaining_seconds)}{more if unknown else ''}")
    length = plan.completion_tokens
    lines.append(f"completions are taken to have {length.mean:.1f} tokens ({length.source})")
    held = memory.measured_bytes
    measured = "" if held is None else f"; the timing held {size(held)}"
    lines.append(
        f"memory: {size(memory.training_bytes)} for weights, gradients and moments in training,"
        f" plus activations{measured}"
    )
    lines.append(f"disk: {size(disk.needed_bytes)} needed, {size(disk.free_bytes)} free")
    kinds = {"sft": "fine_tune", "training": "train"}
    steps = {
        section: next((row.step for row in plan.stages if row.kind == kind), None)
        for section, kind in kinds.items()
    }
    spread = Spread(plan.ranks, plan.workers)
    return lines + spread_lines(spread, steps, timed=plan.timing is not None)
