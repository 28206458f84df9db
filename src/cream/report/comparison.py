"""A comparison's folder to one record: methods side by side over seeds, from stored records only.

Figures of one model are means over seeds of the figure of each seed. Intervals are 95 %, and draw
both seeds and test prompts again (`cream.algorithms.two_level`); differences are paired by seed and
prompt. Members that have not come so far are left out, and each figure names the seeds it rests on.
The page, the tables and the JSON of `cream compare` show what `summarise_comparison` returns.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cream.algorithms.statistics import Interval, wilson_interval
from cream.algorithms.two_level import two_level_interval
from cream.errors import RunError
from cream.records import Count, Rate, Record, Share
from cream.report.costs import Cost, comparison_cost
from cream.report.summary import (
    Difference,
    IterationSummary,
    RunSummary,
    answers_of,
    greedy_answers,
    stages_of,
    summary_of,
)
from cream.runs.files import read_sealed
from cream.runs.plan import RECIPE
from cream.runs.reader import RunReader
from cream.runs.sharing import COMPARISON, Comparers, MethodFolder

Values = Mapping[int, Mapping[str, float]]
"""Seed -> prompt id -> value."""


class Member(Record):
    """A run of a comparison."""

    method: str
    seed: Count
    run: str
    """Run directory, relative to the comparison."""
    finished: bool


class SeedsDifference(Difference):
    """Paired by seed and prompt, with the bootstrap interval over both."""

    seeds: list[Count]


class ComparedModel(Record):
    """Accuracy of one model of one method over seeds."""

    model: str
    seeds: list[Count]
    n: Count
    """Greedy answers, those of all seeds."""
    accuracy: Rate
    low: Rate
    high: Rate
    by_seed: dict[str, Rate]
    gain: SeedsDifference | None
    """To M1 of the same method."""
    difference: SeedsDifference | None
    """To the same model of the baseline; null for the baseline itself."""
    k: Count | None
    mean_at_k: Rate | None
    pass_at_k: Rate | None
    mean_tokens: float


class OverSeeds(Record):
    """A figure of each seed, and their mean."""

    mean: float | None
    by_seed: dict[str, float | None]


class DecidablePairs(Record):
    """Right ones of the decidable pairs of all seeds, with their Wilson interval."""

    n: Count
    accuracy: Rate | None
    low: Rate | None
    high: Rate | None


class ComparedIteration(Record):
    """The pairs of one iteration of one method over seeds."""

    iteration: int
    seeds: list[Count]
    compared: str | None
    consistency: OverSeeds
    null_consistency: OverSeeds
    """What C would be if the models were unrelated."""
    residual_consistency: OverSeeds
    """C of what the two rankings do not share."""
    consistency_in_loss: OverSeeds
    pair_accuracy: DecidablePairs
    chosen_right: Share
    """Of the pairs of all seeds whose chosen completion has a verdict."""
    paired: Count
    """Prompts with a pair, all seeds."""
    prompts: Count
    kl_to_seed_per_token: OverSeeds
    kl_to_previous_per_token: OverSeeds
    mean_completion_tokens: OverSeeds


class ComparedMethod(Record):
    """One method of a comparison."""

    name: str
    models: list[ComparedModel]
    iterations: list[ComparedIteration]
    cost: Cost


class Comparison(Record):
    """Methods side by side over seeds; also comparison.json in the folder of a comparison."""

    name: str
    baseline: str
    """Method that the others are compared with."""
    seeds: list[Count]
    members: list[Member]
    methods: list[ComparedMethod]
    cost: Cost


@dataclass(frozen=True, slots=True)
class MemberRecords:
    """What is read of one member."""

    seed: int
    summary: RunSummary
    """As `summary_of` gives it."""
    right: Mapping[str, Mapping[str, float]]
    """Model -> prompt id -> 1 if the greedy answer is right, else 0."""


def summarise_comparison(root: Path) -> Comparison:
    """Everything worth telling about a comparison; a run is one of itself alone.

    Raises:
        RunError: `root` holds neither, or two members of one seed have other test prompts.
    """
    comparers, places = comparers_of(root)
    begun = {
        name: {seed: RunReader(run) for seed, run in runs.items() if (run / RECIPE).exists()}
        for name, runs in places.items()
    }
    records = {
        name: [_read_member(seed, run) for seed, run in runs.items()]
        for name, runs in begun.items()
    }
    control = records[comparers.baseline]
    costs, total = comparison_cost(begun)
    return Comparison(
        name=comparers.name,
        baseline=comparers.baseline,
        seeds=comparers.seeds,
        members=[
            Member(
                method=name,
                seed=seed,
                run=str(run.relative_to(root)),
                finished=seed in begun[name] and _finished(begun[name][seed]),
            )
            for name, runs in places.items()
            for seed, run in runs.items()
        ],
        methods=[
            ComparedMethod(
                name=name,
                models=_models(members, None if name == comparers.baseline else control),
                iterations=_iterations(members),
                cost=costs[name],
            )
            for name, members in records.items()
        ],
        cost=total,
    )


def comparers_of(root: Path) -> tuple[Comparers, dict[str, dict[int, Path]]]:
    """Who takes part, and method -> seed -> run directory; of a run it is the run alone.

    Raises:
        RunError: `root` holds neither a comparison nor a run, or its record is damaged.
    """
    if (root / COMPARISON).exists():
        comparers = Comparers.read(
            read_sealed(root / COMPARISON, required=False), str(root / COMPARISON)
        )
        return comparers, comparers.places(root)
    if not (root / RECIPE).exists():
        raise RunError(f"{root} holds no run and no comparison")
    summary = summary_of(RunReader(root))
    alone = MethodFolder(name=summary.method, folder=".")
    comparers = Comparers(
        name=summary.name, baseline=summary.method, seeds=[summary.seed], methods=[alone]
    )
    return comparers, {summary.method: {summary.seed: root}}


def comparison_runs(root: Path) -> list[Path]:
    """Run directories that exist of a comparison's members, method by method; a run's own."""
    places = [run for runs in comparers_of(root)[1].values() for run in runs.values()]
    return [place for place in places if (place / RECIPE).exists()]


def _finished(run: RunReader) -> bool:
    return all(stage.state == "finished" for stage in stages_of(run))


def _read_member(seed: int, run: RunReader) -> MemberRecords:
    right = {}
    for name, stage in run.evaluations.items():
        table = greedy_answers(answers_of(stage))
        correct = map(float, table["correct"].to_pylist())
        right[name] = dict(zip(table["prompt_id"].to_pylist(), correct, strict=True))
    return MemberRecords(seed, summary_of(run), right)


def _models(
    members: Sequence[MemberRecords], control: Sequence[MemberRecords] | None
) -> list[ComparedModel]:
    names = dict.fromkeys(name for member in members for name in member.right)
    return [_model(name, members, control) for name in names]


def _model(
    name: str, members: Sequence[MemberRecords], control: Sequence[MemberRecords] | None
) -> ComparedModel:
    """Results of one model of one method over seeds."""
    measured = {member.seed: member.right[name] for member in members if name in member.right}
    first = {member.seed: member.right["M1"] for member in members if "M1" in member.right}
    others = {c.seed: c.right[name] for c in control or () if name in c.right}
    accuracy = _interval(measured)
    rows = [row.overall for m in members for row in m.summary.models if row.model == name]
    return ComparedModel(
        model=name,
        seeds=list(measured),
        n=accuracy.num_items,
        accuracy=accuracy.estimate,
        low=accuracy.low,
        high=accuracy.high,
        by_seed={str(seed): sum(right.values()) / len(right) for seed, right in measured.items()},
        gain=None if name in ("M0", "M1") else _difference(measured, first),
        difference=_difference(measured, others) if control is not None else None,
        k=rows[0].k,
        mean_at_k=_mean(row.mean_at_k for row in rows),
        pass_at_k=_mean(row.pass_at_k for row in rows),
        mean_tokens=sum(row.mean_tokens for row in rows) / len(rows),
    )


def _difference(treatment: Values, control: Values) -> SeedsDifference | None:
    """Paired difference on the seeds that both have; None if there is none."""
    seeds = [seed for seed in treatment if seed in control]
    for seed in seeds:
        if treatment[seed].keys() != control[seed].keys():
            raise RunError(
                f"two members with seed {seed} were tested on different prompts and cannot be "
                "compared; were their runs made from other data?"
            )
    if not seeds:
        return None
    interval = _interval(
        {
            seed: {key: value - control[seed][key] for key, value in treatment[seed].items()}
            for seed in seeds
        }
    )
    return SeedsDifference(
        difference=interval.estimate, low=interval.low, high=interval.high, seeds=seeds
    )


def _interval(values: Values) -> Interval:
    """Over seeds and prompts; a prompt that several seeds have is one prompt."""
    place = {
        key: i for i, key in enumerate(dict.fromkeys(k for row in values.values() for k in row))
    }
    table = np.full((len(values), len(place)), np.nan)
    for row, entries in enumerate(values.values()):
        table[row, [place[key] for key in entries]] = list(entries.values())
    interval = two_level_interval(table, np.random.default_rng(0))
    assert isinstance(interval, Interval)  # a stored evaluation has answers
    return interval


def _iterations(members: Sequence[MemberRecords]) -> list[ComparedIteration]:
    found: dict[int, dict[int, IterationSummary]] = {}
    for member in members:
        for row in member.summary.iterations:
            found.setdefault(row.iteration, {})[member.seed] = row
    return [_iteration(t, found[t]) for t in sorted(found)]


def _iteration(t: int, rows: Mapping[int, IterationSummary]) -> ComparedIteration:
    def over_seeds(read: Callable[[IterationSummary], float | None]) -> OverSeeds:
        by_seed = {str(seed): read(row) for seed, row in rows.items()}
        return OverSeeds(mean=_mean(by_seed.values()), by_seed=by_seed)

    every = list(rows.values())
    decidable = _together((row.pair_accuracy.accuracy, row.pair_accuracy.n) for row in every)
    return ComparedIteration(
        iteration=t,
        seeds=list(rows),
        compared=every[0].compared,
        consistency=over_seeds(lambda row: row.consistency.rate if row.consistency else None),
        null_consistency=over_seeds(_null_rate),
        residual_consistency=over_seeds(_residual_rate),
        consistency_in_loss=over_seeds(lambda row: row.consistency_in_loss),
        pair_accuracy=DecidablePairs(
            n=decidable.n, accuracy=decidable.share, low=decidable.low, high=decidable.high
        ),
        chosen_right=_together((row.chosen_right.share, row.chosen_right.n) for row in every),
        paired=sum(row.tally.parts.get("paired", 0) for row in every),
        prompts=sum(row.tally.total for row in every),
        kl_to_seed_per_token=over_seeds(lambda row: row.kl_to_seed_per_token),
        kl_to_previous_per_token=over_seeds(lambda row: row.kl_to_previous_per_token),
        mean_completion_tokens=over_seeds(lambda row: row.mean_completion_tokens),
    )


def _null_rate(row: IterationSummary) -> float | None:
    null = row.consistency.null if row.consistency else None
    return null.estimate if null else None


def _residual_rate(row: IterationSummary) -> float | None:
    residual = row.consistency.residual if row.consistency else None
    return residual.estimate if residual else None


def _together(shares: Iterable[tuple[float | None, int]]) -> Share:
    """The items of several shares as one."""
    found = [(share, n) for share, n in shares if share is not None]
    right, total = sum(round(share * n) for share, n in found), sum(n for _, n in found)
    interval = wilson_interval(right, total)
    if not isinstance(interval, Interval):
        return Share(share=None, low=None, high=None, n=0)
    return Share(share=interval.estimate, low=interval.low, high=interval.high, n=total)


def _mean(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return sum(present) / len(present) if present else None
