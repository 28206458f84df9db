"""What speaks for a label before anything is trained on it, and how well it tells right from wrong.

Of each prompt the label is the completion with the highest likelihood per token under M_t. Signals
are numbers of a prompt that no verifier is needed for; where prompts can be verified, each is
measured by its AUROC: how often a prompt whose label is right has more of it than one whose label
is wrong. The figures decide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from jaxtyping import Bool, Float64
from rich.console import Console
from rich.text import Text

from cream.algorithms.null_consistency import partial_kendall
from cream.algorithms.ranking import kendall_tau
from cream.algorithms.rewards import Reward
from cream.algorithms.statistics import Absent, bootstrap_auroc, wilson_interval
from cream.recipe.columns import EXTRACTED, SELF_CERTAINTY, VERIFIER
from cream.recipe.parts import Agreement, LogpQuantity
from cream.recipe.witness import SEED_MODEL
from cream.records import Count, MatrixSummary, Rate, Record, Share
from cream.report.table import Table, terminal
from cream.runs.reader import RunReader
from cream.runs.tables import BASE_COLUMNS, LOGP_PREFIX, matrix_from_tables
from cream.stages.layout import Layout
from cream.types import ScoreMatrix

LARGEST_MARGIN = 1e9
"""Of a prompt whose completions all say the same: more than any other has, nats per token."""
UNANIMOUS, MAJORITY = "all completions say the same", "at least half say it"
BINS = 5
"""Parts of the prompts, ordered by a signal, of which each is counted by itself."""


@dataclass(frozen=True)
class PromptSignals:
    """The prompts of an iteration, as columns."""

    right: Float64[np.ndarray, " prompt"]
    """Whether the label is right, 1 or 0; NaN without a verdict."""
    values: Mapping[str, Float64[np.ndarray, " prompt"]]
    """Per signal; NaN where the prompt has none."""
    trusted: Mapping[str, Float64[np.ndarray, " prompt"]]
    """Per rule whether it would trust the label, 1 or 0; NaN where it cannot say."""


class ReliabilityRow(Record):
    """Prompts whose values of a signal lie together, and how many of their labels are right."""

    least: float
    most: float
    """Smallest and largest value among them."""
    right: Share


class SignalQuality(Record):
    """How well a signal tells prompts whose label is right from the others."""

    signal: str
    auroc: Rate
    low: Rate
    """95 % bootstrap interval over prompts."""
    high: Rate
    n: Count
    """Prompts with a value and a verdict."""
    without_value: Count
    reliability: list[ReliabilityRow]
    """The prompts in up to five parts of equal size, from the least of the signal to the most;
    equal values stay together."""


class TrustedLabels(Record):
    """The labels that a rule would trust."""

    rule: str
    trusted: Count
    """Of all prompts."""
    right: Share
    """Of the trusted ones with a verdict."""


class TrustReport(Record):
    """Whether a model's own labels can be trusted, before it is trained on them."""

    run: str
    iteration: Count
    prompts: Count
    all_labels: Share
    """Right labels, of all prompts with a verdict."""
    rules: list[TrustedLabels]
    signals: list[SignalQuality]
    """Empty where nothing can be verified, or all labels are right, or none is."""


def trust_report(reader: RunReader, t: int) -> TrustReport:
    """What the score matrix of iteration t says about the labels that M_t would give itself.

    Raises:
        RunError: The matrix is not finished.
    """
    found = prompt_signals(reader, t)
    return TrustReport(
        run=str(reader.root),
        iteration=t,
        prompts=len(found.right),
        all_labels=_right(found.right, np.ones_like(found.right)),
        rules=[
            TrustedLabels(
                rule=rule, trusted=int((said == 1).sum()), right=_right(found.right, said)
            )
            for rule, said in found.trusted.items()
        ],
        signals=signal_quality([found]),
    )


def signal_quality(parts: Sequence[PromptSignals]) -> list[SignalQuality]:
    """AUROC of each signal that all parts have, prompts of all parts together."""
    names = [name for name in parts[0].values if all(name in part.values for part in parts)]
    right = np.concatenate([part.right for part in parts])
    measured = (
        _quality(name, np.concatenate([part.values[name] for part in parts]), right)
        for name in names
    )
    return [one for one in measured if one is not None]


def _quality(name: str, values: np.ndarray, right: np.ndarray) -> SignalQuality | None:
    known, missing = ~np.isnan(values) & ~np.isnan(right), int(np.isnan(values).sum())
    values, right = values[known], right[known] == 1
    found = bootstrap_auroc(values, right, np.random.default_rng(0))
    if isinstance(found, Absent):
        return None
    return SignalQuality(
        signal=name,
        auroc=found.estimate,
        low=found.low,
        high=found.high,
        n=found.num_items,
        without_value=missing,
        reliability=_reliability(values, right),
    )


def _reliability(
    values: Float64[np.ndarray, " item"], right: Bool[np.ndarray, " item"]
) -> list[ReliabilityRow]:
    order = np.argsort(values, kind="stable")
    between = np.flatnonzero(np.diff(values[order])) + 1  # where a part may end
    ends = np.array([0, *between, len(values)])
    cuts = {ends[np.abs(ends - len(values) * part / BINS).argmin()] for part in range(BINS + 1)}
    parts = [part for part in np.split(order, sorted(cuts)) if len(part)]
    return [
        ReliabilityRow(
            least=float(values[part[0]]),
            most=float(values[part[-1]]),
            right=_right(right[part] * 1.0, np.ones(len(part))),
        )
        for part in parts
    ]


def _right(right: np.ndarray, said: np.ndarray) -> Share:
    counted = right[(said == 1) & ~np.isnan(right)]
    found = wilson_interval(int(counted.sum()), len(counted))
    if isinstance(found, Absent):
        return Share(share=None, low=None, high=None, n=0)
    return Share(share=found.estimate, low=found.low, high=found.high, n=found.num_items)


def prompt_signals(reader: RunReader, t: int) -> PromptSignals:
    """Read the score matrix of iteration t.

    Raises:
        RunError: It is not finished.
    """
    stage, parts = reader.needed("matrix", t), reader.plan.parts[t]
    models = stage.summary(MatrixSummary).columns
    there = set(pq.read_schema(stage.paths[0]).names)
    answers = parts.answered.columns if parts.answered else {}
    scores = [VERIFIER, *answers]
    scores += [SELF_CERTAINTY] if SELF_CERTAINTY in there else []
    labels = [EXTRACTED] if EXTRACTED in there else []
    wanted = [*BASE_COLUMNS, *(LOGP_PREFIX + model for model in models), *scores, *labels]
    matrix = matrix_from_tables(list(stage.tables(wanted)), models, scores, labels)
    return signals_of(Layout(matrix, parts.rule, parts.reward), f"M{t}", answers)


def signals_of(layout: Layout, policy: str, answers: Mapping[str, str]) -> PromptSignals:
    """The signals of every prompt of a score matrix.

    Args:
        layout: The matrix; completions that may not be paired are no labels.
        policy: Model whose likelihood picks the label.
        answers: Witness by the column that says which completions are its answer.
    """
    matrix, counted = layout.matrix, layout.usable & layout.groups.distinct
    likelihoods = {name: _likelihood(matrix, layout, name) for name in matrix.logps}
    own = np.where(counted, likelihoods[policy], -np.inf)
    best, place = own.argmax(axis=1), np.arange(len(own))
    worst = np.where(counted, own, np.inf).argmin(axis=1)
    labelled, several = counted.any(axis=1), counted.sum(axis=1) >= 2
    ranked = np.sort(own, axis=1)
    second = ranked[:, -2] if own.shape[1] > 1 else np.full(len(own), -np.inf)
    ahead = np.full(len(own), LARGEST_MARGIN)
    np.subtract(own[place, best], second, out=ahead, where=several)
    share = layout.groups.multiplicity[place, best] / layout.groups.present.sum(axis=1)
    values = {
        "share of completions that are the label": share,
        "likelihood of the label": own[place, best],
        "likelihood margin": ahead,
    }
    for name, other in likelihoods.items():
        if name == policy:
            continue
        tau = kendall_tau(_reward(own), _reward(np.where(counted, other, np.nan)), counted)
        gap = other[place, best] - other[place, worst]
        values[f"tau with {name}"] = tau.values
        values[f"order of best and worst under {name}"] = np.where(several, np.sign(gap), np.nan)
        values[f"likelihood of the label under {name}"] = other[place, best]
        if SEED_MODEL in likelihoods and name != SEED_MODEL:
            values[f"partial tau with {name} given {SEED_MODEL}"] = _partial_tau(
                layout, policy, name
            )
    if SELF_CERTAINTY in matrix.scores:
        values["self-certainty of the label"] = _padded(matrix.scores[SELF_CERTAINTY], layout)[
            place, best
        ]
    trusted = {UNANIMOUS: (share == 1) * 1.0, MAJORITY: (share >= 0.5) * 1.0}
    for column, witness in answers.items():
        said = _padded(matrix.scores[column], layout)[place, best]
        values[f"{witness} answers the label"] = said
        trusted[f"{witness} answers it"] = said
    right = _padded(matrix.scores[VERIFIER], layout)[place, best]
    without = np.where(labelled, 1.0, np.nan)
    return PromptSignals(
        right * without,
        {name: np.where(labelled, value, np.nan) for name, value in values.items()},
        {name: value * without for name, value in trusted.items()},
    )


def _partial_tau(layout: Layout, policy: str, other: str) -> np.ndarray:
    """Agreement of two implicit rewards given the log-likelihood of M0 that both hold."""
    first, second = (LogpQuantity(unit="implicit", model=name) for name in (policy, other))
    compared = Agreement(first=first, second=second)
    return partial_kendall(*layout.ratings(compared), layout.distinct).values


def _likelihood(matrix: ScoreMatrix, layout: Layout, model: str) -> np.ndarray:
    """Log-probability per token."""
    return _padded(matrix.logps[model], layout) / np.maximum(layout.num_tokens, 1)


def _padded(column: np.ndarray, layout: Layout) -> np.ndarray:
    rows = layout.groups.rows
    return np.where(rows >= 0, column[np.maximum(rows, 0)], np.nan)


def _reward(values: np.ndarray) -> Reward:
    finite = np.where(np.isfinite(values), values, np.nan)
    return Reward(finite, np.zeros_like(finite))


def print_trust(console: Console, report: TrustReport) -> None:
    """Print what `cream trust` found."""
    for table in trust_tables(report):
        console.print(terminal(table))
    if not report.signals:
        console.print(
            Text(
                "no signal can be measured: no prompt has a verdict, or all labels are right, or "
                "none is"
            )
        )


def trust_tables(report: TrustReport) -> Iterable[Table]:
    """What each rule would trust, and what each signal tells."""
    rows = [("all of them", report.prompts, report.all_labels)]
    rows += [(one.rule, one.trusted, one.right) for one in report.rules]
    title = f"labels that M{report.iteration} would give itself: likeliest completion"
    yield Table(
        title,
        ("trusted are prompts of which", "prompts", "label right", "of n"),
        tuple((name, str(count), _share(right), str(right.n)) for name, count, right in rows),
    )
    if report.signals:
        told = sorted(report.signals, key=lambda one: -one.auroc)
        yield Table(
            "which signal tells right labels from wrong ones; 0.5 is no information",
            ("signal", "AUROC", "n", "without a value", "right, % from least to most of it"),
            tuple(
                (
                    one.signal,
                    f"{one.auroc:.3f} [{one.low:.3f}, {one.high:.3f}]",
                    str(one.n),
                    str(one.without_value),
                    by_parts(one),
                )
                for one in told
            ),
        )


def by_parts(quality: SignalQuality) -> str:
    """Right labels in the parts that a signal orders prompts into, least of it first."""
    shares = [row.right.share for row in quality.reliability]
    return " ".join("-" if share is None else f"{100 * share:.0f}" for share in shares)


def _share(right: Share) -> str:
    if right.share is None or right.low is None or right.high is None:
        return ""
    return f"{100 * right.share:.1f} % [{100 * right.low:.1f}, {100 * right.high:.1f}]"
