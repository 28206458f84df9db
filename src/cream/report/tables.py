"""The tables of a run and of a comparison, each built once for terminal, page and card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.console import Console, Group, RenderableType
from rich.text import Text

from cream.pair_records import Consistency, Estimate
from cream.recipe.other_models import model_at
from cream.records import ConstantAnswer, Share, StageKind
from cream.report.comparison import ComparedMethod, ComparedModel, Comparison
from cream.report.costs import KINDS, Cost
from cream.report.further_tables import further_tables
from cream.report.summary import (
    Accuracy,
    IterationSummary,
    ModelResult,
    RunSummary,
    overall_baseline,
)
from cream.report.table import (
    ABSENT,
    Table,
    figure,
    percent,
    points,
    share,
    terminal,
    within,
)
from cream.report.terminal import readable
from cream.runs.verification import StageState
from cream.types import counts

COMMON = "all"
"""Stands for every method where they share a model, as M0 and M1."""


def run_tables(summary: RunSummary) -> RenderableType:
    """Results of a run for the terminal: accuracy, tasks, iterations, dropped prompts, time."""
    blocks: list[RenderableType] = []
    if summary.models:
        title = f"{summary.name}: method {summary.method}, seed {summary.seed}"
        blocks += evaluation_tables(title, summary.models, summary.baseline)
    blocks += [terminal(made) for made in further_tables(summary)]
    if summary.iterations:
        blocks.append(terminal(iteration_table(summary.iterations)))
        blocks += [Text(readable(line)) for line in without_residual(summary.iterations)]
        told = predictor_table(summary.iterations)
        blocks += [terminal(told)] if told else []
        blocks += [Text(readable(line)) for line in drops(summary.iterations)]
    if summary.along:
        blocks.append(terminal(iteration_table(summary.along)))
        blocks += [Text(readable(line)) for line in drops(summary.along)]
    blocks += [
        Text(readable(f"warning, {said.stage}: {said.text} ({said.name})"), style="yellow")
        for said in summary.warnings
    ]
    if summary.seconds:
        blocks.append(Text(time_line(summary.seconds_by_kind)))
    return Group(*blocks) if blocks else Text("nothing is finished yet")


def evaluation_tables(
    title: str, models: Sequence[ModelResult], baseline: Mapping[str, ConstantAnswer]
) -> list[RenderableType]:
    """Accuracy of some models on the same test prompts, overall and per task."""
    told = f"{title}, {models[0].overall.n} test prompts"
    rows = [("", model) for model in models]
    return [
        terminal(accuracy_table(told, rows, overall_baseline(baseline))),
        terminal(task_table(models, baseline)),
    ]


def accuracy_table(
    title: str, rows: Sequence[tuple[str, ModelResult]], constant: float | None = None
) -> Table:
    """Accuracy of each model, and its difference to M1.

    Args:
        title: Of the table.
        rows: Models, each with the name of its run; the names are empty if there is one run.
        constant: Accuracy of the best constant answer per task, as a last row.
    """
    k = max((model.overall.k or 0 for _, model in rows), default=0)
    named = any(name for name, _ in rows)
    head = [*(["run"] if named else []), "model", "greedy accuracy", "vs M1"]
    head += [f"mean@{k}", f"pass@{k}"] if k else []
    cells = [
        (*((name,) if named else ()), *_model_cells(model.model, model.overall, model, bool(k)))
        for name, model in rows
    ]
    if constant is not None and not named:
        cells.append(("constant", percent(constant), *([""] * (len(head) + 1))))
    return Table(
        title,
        (*head, "partial credit", "tokens", "n"),
        tuple(cells),
        "greedy accuracy with 95 % Wilson interval; vs M1: paired difference in points with 95 % "
        "bootstrap interval over prompts; tokens: mean length of greedy answers",
        words=2 if named else 1,
        muted=(len(rows),) if constant is not None and not named else (),
    )


def _model_cells(name: str, overall: Accuracy, model: ModelResult, sampled: bool) -> list[str]:
    return [
        name,
        within(overall.accuracy, overall.low, overall.high),
        points(model.gain),
        *([percent(overall.mean_at_k), percent(overall.pass_at_k)] if sampled else []),
        percent(overall.partial_credit),
        f"{overall.mean_tokens:.1f}",
        str(overall.n),
    ]


def task_table(models: Sequence[ModelResult], baseline: Mapping[str, ConstantAnswer]) -> Table:
    """Accuracy of each model on each task."""
    tasks = models[0].tasks
    rows = [
        (row.model, *(f"{100 * row.tasks[task].accuracy:.0f}" for task in tasks)) for row in models
    ]
    if baseline:
        constants = [baseline[task] for task in tasks]
        rows.append(("constant", *(f"{100 * c.accuracy:.0f} ({c.answer!r})" for c in constants)))
    head = ("model", *(f"{name} ({found.n})" for name, found in tasks.items()))
    muted = (len(models),) if baseline else ()
    return Table("greedy accuracy per task, %", head, tuple(rows), muted=muted)


def iteration_table(rows: Sequence[IterationSummary]) -> Table:
    """Consistency, pairs, and how right they are, per iteration."""
    head = ("iteration", "C compared", "C", "null C", "residual C", "tau", "C in loss", "pairs")
    return Table(
        "iterations of the witness that learns along" if rows[0].learner else "iterations",
        (*head, "pairs right", "chosen right"),
        tuple(_iteration_cells(row) for row in rows),
        "C: consistency rate, mean (tau + 1) / 2 with 95 % bootstrap interval; null C: what it "
        "would be if nothing but the log pi_0 that both rankings hold were related; residual C: of "
        "what they do not share, 0.5 by chance; pairs right: chosen right and rejected wrong, of "
        "the pairs with exactly one right answer; chosen right: of all pairs whose chosen answer "
        "was verified; 95 % Wilson intervals",
        words=2,
    )


def _iteration_cells(row: IterationSummary) -> tuple[str, ...]:
    c, right = row.consistency, row.pair_accuracy
    models = [model_at(t, row.learner) for t in (row.iteration, row.iteration + 1)]
    decidable = Share(share=right.accuracy, low=right.low, high=right.high, n=right.n)
    return (
        f"{row.iteration} ({models[0]} -> {models[1]})",
        row.compared or "not measured",
        rate(c),
        figure(c.null.estimate if c and c.null else None, ".3f"),
        rate(c.residual if c else None),
        tau(c),
        figure(row.consistency_in_loss, ".3f"),
        f"{row.tally.parts.get('paired', 0)} of {row.tally.total}",
        share(decidable) if right.n else "none decidable",
        share(row.chosen_right),
    )


def rate(found: Consistency | Estimate | None) -> str:
    """A C, or an AUROC, with its interval."""
    estimate = found.estimate if isinstance(found, Estimate) else found and found.rate
    if found is None or estimate is None:
        return ABSENT
    return f"{estimate:.3f} [{found.low:.3f}, {found.high:.3f}]"


def tau(consistency: Consistency | None) -> str:
    """Mean and spread over prompts; the spread needs two of them, TopOrder has no tau at all."""
    if consistency is None or consistency.tau_mean is None:
        return ABSENT
    spread = "" if consistency.tau_std is None else f" ± {consistency.tau_std:.2f}"
    return f"{consistency.tau_mean:+.2f}{spread}"


PREDICTORS = {
    "consistency": "C of the prompt",
    "residual": "residual C of the prompt",
    "pair_level": "C of the pair, two Gaussian raters",
    "reward_gap": "reward gap",
}
"""What a predictor is called, by its key in the record."""


def predictor_table(iterations: Sequence[IterationSummary]) -> Table | None:
    """AUROC of whatever might tell right pairs from wrong ones; None without decidable pairs."""
    rows = [
        (str(row.iteration), name, rate(found), str(found.n))
        for row in iterations
        for name, found in (
            *((PREDICTORS[key], auroc) for key, auroc in row.predictors.items()),
            *((f"agrees: {key}", one.auroc) for key, one in row.witnesses.items() if one.auroc),
        )
        if found.n
    ]
    if not rows:
        return None
    return Table(
        "What tells right pairs from wrong ones",
        ("iteration", "by", "AUROC", "n"),
        tuple(rows),
        "best against worst of every prompt, before any filter; 1/2 is no information; 95 % "
        "bootstrap intervals over prompts; n: decidable pairs that have the number",
        words=2,
    )


def without_residual(rows: Sequence[IterationSummary]) -> list[str]:
    """Why there is no residual C, a line per iteration without."""
    return [
        f"iteration {row.iteration}: no residual C: {row.consistency.residual.absent}"
        for row in rows
        if row.consistency and row.consistency.residual and row.consistency.residual.absent
    ]


def place(row: IterationSummary) -> str:
    """Which iteration it is, and of which learner if not the policy's."""
    return f"iteration {row.iteration}" + (f", {row.learner}" if row.learner else "")


def drops(rows: Sequence[IterationSummary]) -> list[str]:
    """Prompts without a pair, by reason, a line per iteration that has any."""
    found = [(row, counts(row.tally.parts, without=["paired"])) for row in rows]
    return [f"{place(row)}: prompts without a pair: {why}" for row, why in found if why]


def time_line(seconds: Mapping[StageKind, float]) -> str:
    """Seconds per kind of stage, and in all."""
    shown = ", ".join(
        f"{kind.replace('_', '-')} {s:.0f}" for kind, s in seconds.items() if s >= 0.5
    )
    return f"time: {sum(seconds.values()):.0f} s ({shown})"


def status_table(stages: Sequence[StageState]) -> Table:
    """One line per stage."""
    rows = [
        (stage.stage, stage.state, str(stage.parts or ""), _seconds(stage.seconds))
        for stage in stages
    ]
    return Table("stages", ("stage", "state", "parts", "seconds"), tuple(rows), words=2)


def verification_table(stages: Sequence[StageState]) -> Table:
    """One line per stage: whether every file is what was written, and how many bytes were read."""
    rows = [
        (stage.stage, stage.state, "" if stage.bytes is None else f"{stage.bytes:,}")
        for stage in stages
    ]
    return Table("files of the run", ("stage", "state", "bytes"), tuple(rows), words=2)


def damage_table(stages: Sequence[StageState]) -> Table:
    """One line per file that is not what its stage wrote; no line if all are."""
    rows = [(stage.stage, problem) for stage in stages for problem in stage.problems]
    return Table("damaged", ("stage", "what is wrong"), tuple(rows), words=2)


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f}"


def comparison_tables(comparison: Comparison) -> list[Table]:
    """Accuracy, pairs and cost of every method; what has no results yet is left out."""
    found = []
    if any(method.models for method in comparison.methods):
        found.append(compared_accuracy_table(comparison))
    if any(method.iterations for method in comparison.methods):
        found.append(compared_pair_table(comparison.methods))
    return [*found, cost_table([(m.name, m.cost) for m in comparison.methods], comparison.cost)]


def print_comparison(console: Console, comparison: Comparison) -> None:
    """Print how far a comparison is, and its tables."""
    finished = sum(member.finished for member in comparison.members)
    console.print(
        f"{comparison.name}: {len(comparison.methods)} methods, seeds "
        f"{', '.join(map(str, comparison.seeds))}; {finished} of {len(comparison.members)} runs "
        "finished",
        markup=False,
    )
    for table in comparison_tables(comparison):
        console.print(terminal(table))


def compared_accuracy_table(comparison: Comparison) -> Table:
    """Accuracy of every model of every method, with differences to M1 and to the baseline."""
    one = len(comparison.seeds) == 1
    over = "prompts (of one seed; other seeds would differ)" if one else "seeds and prompts"
    rows = [
        (
            name,
            row.model,
            within(row.accuracy, row.low, row.high),
            points(row.gain),
            "" if name == COMMON else points(row.difference),
            percent(row.mean_at_k),
        )
        for name, row in _with_common(comparison.methods)
    ]
    head = ("method", "model", "accuracy", "vs M1", f"vs {comparison.baseline}", "mean@k")
    return Table(
        "accuracy",
        head,
        tuple(rows),
        "greedy accuracy and mean@k, means over seeds; differences in points, paired by seed and "
        f"prompt; in brackets the 95 % bootstrap interval over {over}",
        words=2,
        whole=True,
    )


def _with_common(methods: Sequence[ComparedMethod]) -> list[tuple[str, ComparedModel]]:
    """Models with whose they are; M0 and M1 once if all methods have the same."""
    shared = []
    for name in ("M0", "M1"):
        found = [row for m in methods for row in m.models if row.model == name]
        if len(found) == len(methods) and all(r.by_seed == found[0].by_seed for r in found):
            shared.append(found[0])
    once = {row.model for row in shared}
    own = [(m.name, row) for m in methods for row in m.models if row.model not in once]
    return [*((COMMON, row) for row in shared), *own]


def compared_pair_table(methods: Sequence[ComparedMethod]) -> Table:
    """Consistency, pairs and divergence of every iteration of every method."""
    head = ("method", "t", "C", "null C", "C in loss", "pairs", "right", "chosen right")
    rows = [
        (
            method.name,
            str(row.iteration),
            figure(row.consistency.mean, ".3f"),
            figure(row.null_consistency.mean, ".3f"),
            figure(row.consistency_in_loss.mean, ".3f"),
            f"{row.paired} of {row.prompts}",
            _of(row.pair_accuracy.accuracy, row.pair_accuracy.n),
            _of(row.chosen_right.share, row.chosen_right.n),
            figure(row.kl_to_seed_per_token.mean, ".3f"),
            figure(row.mean_completion_tokens.mean, ".1f"),
        )
        for method in methods
        for row in method.iterations
    ]
    return Table(
        "pairs",
        (*head, "KL to M0", "tokens"),
        tuple(rows),
        "C: consistency rate; null C: what it would be if the models were unrelated; KL to M0 in "
        "nats per sampled token; all three means over seeds; right: of the decidable pairs of all "
        "seeds; chosen right: of all their pairs whose chosen answer was verified; tokens: mean "
        "completion length",
        whole=True,
    )


def _of(value: float | None, n: int) -> str:
    return f"{percent(value)} of {n}" if n else ABSENT


def _tokens(count: float | None) -> str:
    return ABSENT if count is None else f"{count:,.0f}"


def cost_table(costs: Sequence[tuple[str, Cost]], total: Cost) -> Table:
    """Seconds and tokens of every method, and together."""
    rows = [
        (
            name,
            f"{cost.seconds:,.0f}",
            f"{cost.seconds_alone:,.0f}",
            *(_tokens(getattr(cost.tokens, kind)) for kind in KINDS),
        )
        for name, cost in [*costs, ("together", total)]
    ]
    return Table(
        "cost, all seeds",
        ("method", "seconds", "alone", *KINDS),
        tuple(rows),
        "a stage that methods share is counted once, divided evenly among them; alone: what a "
        "method's runs would have taken by themselves. Tokens of completions; those of "
        "fine-tuning, judges, transforms and replay are not recorded",
        whole=True,
        muted=(len(costs),),
    )
