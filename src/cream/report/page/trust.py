"""Whether the model's ranking could be trusted: tau and C, their calibration, the witnesses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cream.algorithms.statistics import Interval, wilson_interval
from cream.pair_records import NullConsistency, ResidualConsistency
from cream.report.markup import Html, PageSection, join, paragraph, tag
from cream.report.page.axes import Axis, Frame, axis_over, category_axis, percent_axis
from cream.report.page.figures import (
    Point,
    Reference,
    Series,
    Words,
    histogram_figure,
    point_figure,
)
from cream.report.page.records import Correlations, RunRecords
from cream.report.summary import IterationSummary
from cream.report.table import ABSENT, Table, figure, html, percent, share, within
from cream.report.tables import iteration_table, predictor_table, rate, without_residual
from cream.types import counts

TAU_EDGES = tuple(np.linspace(-1, 1, 22).round(6).tolist())
"""An odd number of bins, so that tau = 0 (C = 1/2) lies inside one and not on an edge."""
SHARES = Axis("C, predicted", 0.0, 1.0, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))


def consistency(records: RunRecords) -> PageSection | None:
    """C per iteration and how tau is distributed over prompts; None if nothing was compared."""
    rows = [row for row in records.iterations if row.consistency]
    if not rows:
        return None
    figures = [_rates(rows)]
    figures += [_histogram(t, found) for t, found in records.correlations.items()]
    explained = (
        "C = (tau + 1) / 2 measures how alike two rankings of the same completions are: 1 the same "
        "order, 1/2 no relation, 0 reversed. It says how far they agree, not that they are right. "
        "From t = 2 on both rewards hold −log π₀, so models that have nothing to do with each "
        "other agree as well: read C against that null, and the residual C against 1/2."
    )
    parts = [
        paragraph(explained),
        tag("div", *figures, attributes={"class": "figures"}),
        html(iteration_table(records.iterations)),
        html(_agreement_table(rows)),
        *(paragraph(f"{line[:1].upper()}{line[1:]}.") for line in without_residual(rows)),
    ]
    return PageSection("consistency", "Consistency of the rankings", join(parts))


def along(records: RunRecords) -> PageSection | None:
    """What a witness that learns along was trained on; None if none does."""
    if not records.summary.along:
        return None
    explained = (
        "The witness is trained too, by the same rule with the roles exchanged: it ranks its own "
        "answers, and the policy of the same iteration confirms them. The next iteration asks what "
        "it became."
    )
    body = [paragraph(explained), html(iteration_table(records.summary.along))]
    return PageSection("along", "The witness that learns along", join(body))


def calibration(records: RunRecords) -> PageSection | None:
    """C against the verifier on decidable pairs; None if no iteration has any."""
    rows = [row for row in records.iterations if row.pair_accuracy.n]
    if not rows:
        return None
    figures = [_pair_accuracy(rows)]
    figures += [_reliability(row) for row in rows if row.reliability]
    explained = (
        "A pair is decidable if exactly one of its two completions is correct; it is right if that "
        "one was chosen. The verifier is read here only, never by the method unless it says so. "
        "Most pairs may not be decidable: “chosen right” counts all of them. "
        "If C predicted correctness, points would lie on the diagonal and the AUROC be above 1/2."
    )
    parts = [
        paragraph(explained),
        tag("div", *figures, attributes={"class": "figures"}),
        html(_validity_table(rows)),
        *(html(found) for found in [predictor_table(records.iterations)] if found),
    ]
    return PageSection("calibration", "Was the ranking right?", join(parts))


def witnesses(records: RunRecords) -> PageSection | None:
    """How often pairs were right where a witness agreed and where not; None without witnesses."""
    rows = [
        (
            str(row.iteration),
            name,
            _of(found.agree_accuracy, found.agree_low, found.agree_high, found.agree_n),
            _of(found.disagree_accuracy, found.disagree_low, found.disagree_high, found.disagree_n),
        )
        for row in records.iterations
        for name, found in row.witnesses.items()
        if found.agree_n or found.disagree_n
    ]
    if not rows:
        return None
    explained = (
        "A witness is another quantity that is asked for its order of the same pair. It is worth "
        "listening to if pairs are right more often where it agrees. It was asked about best "
        "against worst of every prompt, before any filter."
    )
    head = ("iteration", "witness", "right where it agrees", "right where it does not")
    table = Table("Share of decidable pairs", head, tuple(rows), "95 % Wilson intervals", words=2)
    return PageSection("witnesses", "Witnesses", join([paragraph(explained), html(table)]))


def _of(accuracy: float | None, low: float | None, high: float | None, n: int) -> str:
    return f"{within(accuracy, low, high)} of {n}" if n else ABSENT


def _rates(rows: Sequence[IterationSummary]) -> Html:
    points = tuple(
        Point(float(place), c.rate, c.low, c.high, c.n)
        for place, row in enumerate(rows)
        if (c := row.consistency)
    )
    nulls = tuple(
        Point(float(place), null.estimate, null.low, null.high, null.n)
        for place, row in enumerate(rows)
        if (c := row.consistency) and (null := c.null) and null.estimate is not None
    )
    names = [f"M{row.iteration}" for row in rows]
    y = Axis("C", 0.0, 1.0, (0.0, 0.25, 0.5, 0.75, 1.0))
    said = Words(
        "Consistency rate",
        "Mean C over prompts with 95 % bootstrap intervals, per model that was sampled, and what "
        "it would be if the models were unrelated; the line is C of unrelated rankings.",
        alternative="Mean C: "
        + ", ".join(f"{name} {p.y:.3f}" for name, p in zip(names, points, strict=True)),
    )
    frame = Frame(category_axis("completions of", names), y)
    chance = [Reference("chance, C = 1/2", 0.5, 0.5)]
    series = [Series("C", points), *([Series("C if unrelated", nulls)] if nulls else [])]
    return point_figure(said, frame, series, chance, joined=True)


def _histogram(t: int, found: Correlations) -> Html:
    is_rate = found.statistic == "top_order"
    edges = tuple((np.asarray(TAU_EDGES) + 1) / 2) if is_rate else TAU_EDGES
    counts = np.histogram(found.values, bins=np.asarray(edges))[0].tolist()
    ticks = (0.0, 0.25, 0.5, 0.75, 1.0) if is_rate else (-1.0, -0.5, 0.0, 0.5, 1.0)
    labels = tuple(
        f"{tick:g}" if is_rate else f"{tick:g}\nC {(tick + 1) / 2:g}".replace("-", "−")
        for tick in ticks
    )
    x = Axis("C" if is_rate else "tau, and C below it", edges[0], edges[-1], ticks, labels)
    missing = ", ".join(f"{reason} {n}" for reason, n in sorted(found.undefined.items()))
    said = Words(
        f"Iteration {t}: {'C' if is_rate else 'tau and C'} per prompt",
        f"{len(found.values)} prompts of M{t}"
        + (f"; without a value: {missing}." if missing else "."),
        alternative=f"Histogram of {found.statistic} over {len(found.values)} prompts, mean "
        + (f"{found.values.mean():.2f}" if len(found.values) else "absent"),
    )
    y = axis_over("prompts", [0.0, float(max(counts, default=0))])
    middle = 0.5 if is_rate else 0.0
    return histogram_figure(said, Frame(x, y), edges, counts, ("chance", middle))


def _agreement_table(rows: Sequence[IterationSummary]) -> Table:
    cells = [
        (
            str(row.iteration),
            counts(c.undefined) or "none",
            percent(c.share_below_half),
            str(c.n),
            *_null_cells(c.null),
            *_residual_cells(c.residual),
        )
        for row in rows
        if (c := row.consistency)
    ]
    head = ("iteration", "without C", "C < 1/2", "n", "both hold", "null C", "if Gaussian")
    return Table(
        "Prompts whose rankings were compared",
        (*head, "residual C", "slopes"),
        tuple(cells),
        "both hold: the model whose log-probabilities are in both rankings; null C: mean and "
        "middle 95 % of permutations within prompts of everything else; residual C: without what "
        "that model explains, by one slope for all prompts; slopes: of the two ratings on it, 1 "
        "where the rest of a rating is unrelated to it",
        words=2,
    )


def _null_cells(null: NullConsistency | None) -> tuple[str, str, str]:
    if null is None:
        return ABSENT, ABSENT, ABSENT
    middle = rate(null) if null.low is not None else figure(null.estimate, ".3f")
    return null.shared or "nothing", middle, figure(null.gaussian, ".3f")


def _residual_cells(residual: ResidualConsistency | None) -> tuple[str, str]:
    if residual is None:
        return ABSENT, ABSENT
    slopes = (residual.first_slope, residual.second_slope)
    return rate(residual), ", ".join(figure(slope, ".2f") for slope in slopes)


def _pair_accuracy(rows: Sequence[IterationSummary]) -> Html:
    points = tuple(
        Point(float(place), a.accuracy, a.low, a.high, a.n)
        for place, row in enumerate(rows)
        if (a := row.pair_accuracy).accuracy is not None
    )
    names = [f"iteration {row.iteration}" for row in rows]
    said = Words(
        "Pairs with the right order",
        "Share of decidable pairs whose chosen completion is the correct one; 95 % Wilson "
        "intervals. n: " + ", ".join(str(p.n) for p in points) + ".",
        alternative="Right pairs: "
        + ", ".join(f"{name} {percent(p.y)}" for name, p in zip(names, points, strict=True)),
    )
    frame = Frame(category_axis("", names), percent_axis("right pairs, %", 1.0))
    chance = [Reference("chance, 50 %", 0.5, 0.5)]
    return point_figure(said, frame, [Series("pairs", points)], chance, joined=True)


def _reliability(row: IterationSummary) -> Html:
    points = []
    for found in row.reliability or []:
        if found.observed is None or found.predicted is None:
            continue
        interval = wilson_interval(round(found.observed * found.n), found.n)
        assert isinstance(interval, Interval)  # the bin has pairs
        points.append(
            Point(found.predicted, interval.estimate, interval.low, interval.high, found.n)
        )
    auroc = row.consistency_auroc
    n = sum(p.n or 0 for p in points)
    strength = (
        "AUROC absent: the decidable pairs are all right or all wrong"
        if auroc is None
        else f"AUROC {auroc:.2f} (1/2 is no information)"
    )
    said = Words(
        f"Iteration {row.iteration}: does C predict correctness?",
        f"{n} decidable pairs in five bins of C; 95 % Wilson intervals. {strength}.",
        alternative=f"Reliability of C in iteration {row.iteration}, {n} pairs. {strength}. "
        + ", ".join(f"at C {p.x:.2f} {percent(p.y)} right of {p.n}" for p in points),
    )
    frame = Frame(SHARES, Axis("pairs that are right", 0.0, 1.0, SHARES.ticks))
    diagonal = [Reference("perfect calibration", 0.0, 1.0)]
    return point_figure(said, frame, [Series("C", tuple(points))], diagonal)


def _validity_table(rows: Sequence[IterationSummary]) -> Table:
    head = ("iteration", "pairs right", "chosen right", "AUROC of C", "n", "AUROC of C in loss")
    cells = [
        (
            str(row.iteration),
            f"{within(right.accuracy, right.low, right.high)} of {right.n}",
            share(row.chosen_right),
            figure(row.consistency_auroc, ".3f"),
            str(sum(found.n for found in row.reliability or [])),
            figure(row.loss_consistency_auroc, ".3f"),
            *(str(right.counts.get(key, 0)) for key in ("both_right", "both_wrong", "unverified")),
        )
        for row in rows
        for right in [row.pair_accuracy]
    ]
    return Table(
        "Pairs against the verifier",
        (*head, "both right", "both wrong", "unverified"),
        tuple(cells),
        "pairs right: of the decidable ones; chosen right: of all pairs whose chosen answer was "
        "verified; 95 % Wilson intervals; n: decidable pairs with a C",
    )
