"""A run directory to one summary: accuracy per model, consistency and pairs per iteration, time.

Every figure is computed from stored records and carries its n; intervals are 95 %. How far each
stage is stands beside it. `RunResult` is a run directory as an object, which reads when asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
from pydantic import Field

from cream.algorithms.statistics import (
    Interval,
    mean_at_k,
    paired_difference,
    pass_at_k,
    wilson_interval,
)
from cream.errors import RunError
from cream.pair_records import PairSummary
from cream.records import (
    ConstantAnswer,
    Count,
    FrozenPrompts,
    Rate,
    Record,
    StageKind,
)
from cream.report.edits import EditedIteration, edited_iterations
from cream.report.exploration import Exploration, exploration_of_run
from cream.report.run_warnings import RunWarning, warnings_of
from cream.report.trajectories import TrajectoryResult, trajectory_results
from cream.report.weighed import WeighedIteration, weighed_iterations
from cream.runs.reader import PAIRS, FinishedStage, RunReader
from cream.runs.verification import StageState, stage_state, verify_run
from cream.types import Tally

COLUMNS = ("prompt_id", "task", "index", "correct", "partial_credit", "num_tokens")
"""What a summary reads of an evaluation; the texts stay on disk."""


Change = Annotated[float, Field(ge=-1, le=1)]
"""A difference of two shares."""


class OptionSummary(Record):
    """What an option of an objective added to the examples of pairs."""

    tally: Tally
    """Pairs that got its sequences, and the others by reason."""
    figures: dict[str, float | None]
    """What it tells of them all, by name."""


class TransformSummary(Record):
    """What was made of the pairs of an iteration."""

    examples: Count
    sequences: Count
    unscored: Count
    """Sequences without a sum under the loss reference."""
    tally: Tally
    """Pairs with examples, and the others by reason."""
    options: dict[str, OptionSummary] = Field(
        default_factory=dict, exclude_if=lambda value: not value
    )
    """By option of the objective; empty for a transform of the user's."""


class Accuracy(Record):
    """Greedy accuracy on some prompts with its 95 % Wilson interval."""

    right: Count
    n: Count
    accuracy: Rate
    low: Rate
    high: Rate
    partial_credit: Rate
    """Mean of the tasks' own graded scores."""
    mean_tokens: float
    """Mean length of greedy answers."""
    k: Count | None = None
    """Samples per prompt; null without samples, as what follows."""
    mean_at_k: Rate | None = None
    pass_at_k: Rate | None = None
    """Unbiased (Chen et al. 2021, arXiv 2107.03374)."""


class Evaluation(Record):
    """Accuracy of one model."""

    overall: Accuracy
    tasks: dict[str, Accuracy]


class Difference(Record):
    """Of two accuracies on the same prompts, with its 95 % bootstrap interval."""

    difference: Change
    low: Change
    high: Change


class ModelResult(Evaluation):
    """Accuracy of a model of a run."""

    model: str
    gain: Difference | None
    """Paired difference to M1; null for M0 and M1, or where M1 was not evaluated."""


class IterationSummary(PairSummary):
    """Pairs of an iteration of a run."""

    iteration: Annotated[int, Field(ge=1)]
    learner: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Witness that learns along, whose pairs they are; null: the policy's."""


class GoalResult(Record):
    """Accuracy of a model that is told a goal."""

    model: str
    goal: int
    overall: Accuracy
    difference: Difference | None
    """Paired difference to the same model without a goal."""


class RunSummary(Record):
    """Results of a run; also its summary.json. Unfinished stages are left out."""

    name: str
    method: str
    seed: Count
    iterations_planned: Annotated[int, Field(ge=1)]
    models: list[ModelResult]
    """Those evaluated, M0 first."""
    baseline: dict[str, ConstantAnswer]
    """Best constant answer per task of the test prompts."""
    goals: list[GoalResult] = Field(default=[], exclude_if=lambda value: not value)
    exploration: list[Exploration] = Field(default=[], exclude_if=lambda value: not value)
    iterations: list[IterationSummary]
    """Those with pairs."""
    along: list[IterationSummary] = Field(default=[], exclude_if=lambda value: not value)
    """Iterations of a witness that learns along; as many right of its pairs, and so on."""
    edits: list[EditedIteration] = Field(default=[], exclude_if=lambda value: not value)
    weighed: list[WeighedIteration] = Field(default=[], exclude_if=lambda value: not value)
    """Those of a method that weighs every sample."""
    trajectories: list[TrajectoryResult] = Field(default=[], exclude_if=lambda value: not value)
    """First and last answers, of a method that cuts completions into solutions and checks."""
    seconds: dict[str, Annotated[float, Field(ge=0)]]
    """Per finished stage, over all attempts, in running order."""
    seconds_by_kind: dict[StageKind, Annotated[float, Field(ge=0)]]
    """The same, summed by what the stages do."""
    warnings: list[RunWarning] = Field(default_factory=list, exclude_if=lambda value: not value)
    """In running order of the stages."""


class RunStatus(Record):
    """Stages of a run, and its results so far."""

    stages: list[StageState]
    summary: RunSummary


def status_of(root: Path) -> RunStatus:
    """Stages of the run's plan, in running order, and the results of those that are whole.

    Raises:
        RunError: `root` holds no run.
    """
    stages = stages_of(RunReader(root))
    try:
        return RunStatus(stages=stages, summary=summary_of(_whole(root, stages)))
    except RunError:  # damage that the cheap look did not see
        stages = list(verify_run(root).stages)
        return RunStatus(stages=stages, summary=summary_of(_whole(root, stages)))


def _whole(root: Path, stages: Sequence[StageState]) -> RunReader:
    return RunReader(root, without=[s.stage for s in stages if s.state == "damaged"])


def stages_of(run: RunReader) -> list[StageState]:
    """One entry per stage of the run's plan, in running order."""
    return [stage_state(run.root, spec.name) for spec in run.plan.stages]


def summarise_run(root: Path) -> RunSummary:
    """Everything worth telling about a run; unfinished stages are left out.

    Raises:
        RunError: `root` holds no run.
    """
    return summary_of(RunReader(root))


def summary_of(run: RunReader) -> RunSummary:
    """See `summarise_run`."""
    evaluated = {name: answers_of(stage) for name, stage in run.evaluations.items()}
    frozen = [stage.summary(FrozenPrompts) for stage in run.of("freeze_prompts")]
    by_kind: dict[StageKind, float] = {}
    for stage in run.finished.values():
        by_kind[stage.spec.kind] = by_kind.get(stage.spec.kind, 0.0) + stage.seconds
    return RunSummary(
        **_named(run),
        models=[_model(name, table, evaluated.get("M1")) for name, table in evaluated.items()],
        baseline={task: c for found in frozen for task, c in found.constant_baseline.items()},
        goals=[*_under_goals(run, evaluated)],
        exploration=exploration_of_run(run),
        iterations=[
            IterationSummary(iteration=t, **dict(stage.summary(PairSummary)))
            for t, stage in run.pairings.items()
        ],
        along=[
            IterationSummary(
                iteration=stage.spec.t,
                learner=stage.spec.learner,
                **dict(stage.summary(PairSummary)),
            )
            for stage in run.of("pair")
            if stage.spec.learner is not None
        ],
        edits=edited_iterations(run),
        weighed=weighed_iterations(run),
        trajectories=trajectory_results(run),
        seconds={name: stage.seconds for name, stage in run.finished.items()},
        seconds_by_kind=by_kind,
        warnings=warnings_of(run),
    )


def _under_goals(run: RunReader, evaluated: Mapping[str, pa.Table]) -> Iterator[GoalResult]:
    for stage in run.of("evaluate_goal"):
        model, table, goal = str(stage.spec.model), answers_of(stage), int(str(stage.spec.column))
        gain = _gain(table, evaluated.get(model))
        yield GoalResult(model=model, goal=goal, overall=_accuracy(table), difference=gain)


def _named(run: RunReader) -> dict[str, Any]:
    """What the stored recipe says of the run, also one that this version does not know whole."""
    values = run.values
    return {
        "name": values["name"],
        "method": values["method"]["name"],
        "seed": values["seed"],
        "iterations_planned": values["iterations"],
    }


def _model(name: str, table: pa.Table, first: pa.Table | None) -> ModelResult:
    gain = _gain(table, first) if name not in ("M0", "M1") else None
    return ModelResult(model=name, gain=gain, **dict(summarise_evaluation(table)))


def summarise_evaluation(table: pa.Table) -> Evaluation:
    """Accuracy of one model per task and overall, from its evaluation records.

    Greedy accuracy has a Wilson interval; mean@k and pass@k are over the k samples per prompt
    (pass@k unbiased, Chen et al. 2021, arXiv 2107.03374).
    """
    names = np.asarray(table["task"].to_pylist(), dtype=object)
    per_task = {
        task: _accuracy(table.filter(pa.array(names == task))) for task in sorted(set(names))
    }
    return Evaluation(overall=_accuracy(table), tasks=per_task)


def answers_of(stage: FinishedStage) -> pa.Table:
    """The records of one evaluation, `COLUMNS` of them."""
    return stage.table(COLUMNS)


def greedy_answers(table: pa.Table) -> pa.Table:
    """The rows of greedy answers, one per prompt; the others are samples."""
    return table.filter(pa.array(table["index"].to_numpy() == -1))


def _gain(table: pa.Table, baseline: pa.Table | None) -> Difference | None:
    """Paired difference of greedy accuracy against M1 on the same prompts, joined by id."""
    if baseline is None:
        return None
    before = dict(
        zip(
            greedy_answers(baseline)["prompt_id"].to_pylist(),
            greedy_answers(baseline)["correct"].to_pylist(),
            strict=True,
        )
    )
    after = greedy_answers(table)
    treatment = np.asarray(after["correct"].to_pylist(), dtype=np.float64)
    control = np.asarray([before[key] for key in after["prompt_id"].to_pylist()], dtype=np.float64)
    interval = paired_difference(treatment, control, np.random.default_rng(0))
    assert isinstance(interval, Interval)
    return Difference(difference=interval.estimate, low=interval.low, high=interval.high)


def _accuracy(table: pa.Table) -> Accuracy:
    greedy = greedy_answers(table)
    right = int(np.sum(greedy["correct"].to_numpy(zero_copy_only=False)))
    interval = wilson_interval(right, greedy.num_rows)
    assert isinstance(interval, Interval)  # a stored evaluation has answers
    return Accuracy(
        right=right,
        n=greedy.num_rows,
        accuracy=interval.estimate,
        low=interval.low,
        high=interval.high,
        partial_credit=float(np.mean(greedy["partial_credit"].to_numpy())),
        mean_tokens=float(np.mean(greedy["num_tokens"].to_numpy())),
        **_of_samples(table.filter(pa.array(table["index"].to_numpy() >= 0))),
    )


def _of_samples(samples: pa.Table) -> dict[str, Any]:
    if not samples.num_rows:
        return {}
    counts = samples.group_by("prompt_id").aggregate([("correct", "sum"), ("correct", "count")])
    correct = counts["correct_sum"].to_numpy().astype(np.int64)
    totals = counts["correct_count"].to_numpy().astype(np.int64)
    k = int(totals[0])
    return {
        "k": k,
        "mean_at_k": float(np.mean(mean_at_k(correct, totals))),
        "pass_at_k": float(np.mean(pass_at_k(correct, totals, k=k))),
    }


def overall_baseline(baseline: Mapping[str, ConstantAnswer]) -> float | None:
    """Accuracy of the best constant answer per task, over all tasks."""
    total = sum(entry.n for entry in baseline.values())
    right = sum(entry.accuracy * entry.n for entry in baseline.values())
    return right / total if total else None


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run left, finished or not."""

    root: Path
    """The run directory."""

    @property
    def summary(self) -> RunSummary:
        """Results of every model and iteration so far; also ``summary.json``.

        Raises:
            RunError: `root` holds no run.
        """
        return summarise_run(self.root)

    @property
    def models(self) -> dict[str, Path]:
        """Folders of the trained models that are kept, by name: ``M1``, ``M2``, ..."""
        return {path.name: path for path in sorted((self.root / "models").glob("*"))}

    def accuracy(self, model: str) -> float | None:
        """Share of test prompts whose greedy answer is correct; None if `model` has no results."""
        found = [row.overall for row in self.summary.models if row.model == model]
        return found[0].right / found[0].n if found else None

    def matrix(self, t: int) -> pa.Table:
        """Score matrix of iteration t: a row per completion, a column per score.

        Raises:
            RunError: It is not finished.
        """
        return RunReader(self.root).needed("matrix", t).table()

    def pairs(self, t: int) -> pa.Table:
        """Preference pairs of iteration t, by completion id.

        Raises:
            RunError: They are not finished.
        """
        return RunReader(self.root).needed("pair", t).file(PAIRS)


def open_run(folder: str | Path) -> RunResult:
    """Open a run directory.

    Raises:
        RunError: It holds no run.
    """
    return RunResult(RunReader(Path(folder)).root)
