"""How training went: losses, margins beside their fixed point, divergence, length, diversity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cream.records import StageSpec, TrainSummary
from cream.report.further_tables import trajectory_table, weighed_table
from cream.report.markup import Html, PageSection, join, paragraph, tag
from cream.report.page.axes import Axis, Frame, axis_over, axis_within, category_axis
from cream.report.page.figures import Point, Reference, Series, Words, line_figure, point_figure
from cream.report.page.records import RunRecords
from cream.report.summary import IterationSummary
from cream.report.table import Table, figure, html, percent, signed
from cream.runs.reader import Curve


def losses(records: RunRecords) -> PageSection | None:
    """Loss over steps of fine-tuning, of each witness, and of each iteration; None before any."""
    trained = records.run.of("fine_tune", "train")
    figures = [
        _curve_figure(
            _training_name(stage.spec),
            "nats per completion token" if stage.spec.kind == "fine_tune" else "mean loss",
            stage.curve,
            "loss",
        )
        for stage in trained
        if stage.curve
    ]
    if not figures:
        return None
    parts = [
        paragraph(f"{_training_name(stage.spec)}: {said}", "warning")
        for stage in trained
        for said in stage.summary(TrainSummary).warnings
    ]
    parts.append(tag("div", *figures, attributes={"class": "figures"}))
    return PageSection("losses", "Loss curves", join(parts))


def margins(records: RunRecords) -> PageSection | None:
    """Margin x over steps and the fixed point logit C it is driven to; None before any."""
    figures = []
    for row in records.iterations:
        trained = records.run.sole("train", row.iteration)
        curve = trained.curve if trained is not None else ()
        if curve and "rewards/margins" in curve[0]:
            figures.append(_margin_figure(row, curve))
    if not figures:
        return None
    explained = (
        "The margin is beta × (log-ratio of the chosen − log-ratio of the rejected) against the "
        "loss reference. With C below 1 the CREAM loss stops pulling where the margin reaches "
        "logit C; with C = 1 it never does. Other terms of the objective, and few steps, keep "
        "margins away from it."
    )
    body = [paragraph(explained), tag("div", *figures, attributes={"class": "figures"})]
    return PageSection("margins", "Margins and their fixed point", join(body))


def profile(records: RunRecords) -> PageSection | None:
    """Divergence, length and diversity of each model's completions; None before any pairs."""
    rows = records.iterations
    if not rows:
        return None
    names = [f"M{row.iteration}" for row in rows]
    sampled = [records.sampled(row.iteration) for row in rows]
    figures = [
        _over_models(
            "Divergence",
            "k1 estimate per sampled token, nats. A KL divergence only at temperature 1 and "
            "top-p 1; otherwise a mean log-ratio, which may be negative.",
            "nats per token",
            names,
            {
                "against M0": [row.kl_to_seed_per_token for row in rows],
                "against the model before": [row.kl_to_previous_per_token for row in rows],
            },
        ),
        _over_models(
            "Completion length",
            "Mean tokens of all completions, and of those chosen and rejected.",
            "tokens",
            names,
            {
                "all": [row.mean_completion_tokens for row in rows],
                "chosen": [row.chosen_tokens for row in rows],
                "rejected": [row.rejected_tokens for row in rows],
            },
        ),
        _over_models(
            "Diversity",
            "Duplicates: share of completions that copy an earlier one of their prompt. "
            "Distinct-2: different pairs of neighbouring tokens over all such pairs.",
            "share",
            names,
            {
                "duplicates": [1 - row.distinct / row.completions for row in rows],
                "distinct-2": [None if found is None else found.distinct_2 for found in sampled],
            },
        ),
    ]
    body = [
        tag("div", *figures, attributes={"class": "figures"}),
        html(_profile_table(rows, [None if f is None else f.distinct_2 for f in sampled])),
    ]
    return PageSection("profile", "Divergence, length and diversity", join(body))


OF_SAMPLES = (
    "Right of those verified; of two samples of a prompt, one right, whose rewards differ, how "
    "often the right one's is higher; share of a prompt's samples with its most frequent answer."
)


def samples(records: RunRecords) -> PageSection | None:
    """What the samples of a method without pairs were worth, and how varied; None without any."""
    rows = records.summary.weighed
    if not rows:
        return None
    names = [f"M{row.iteration}" for row in rows]
    shares = {
        "samples right": [row.right.share for row in rows],
        "right before wrong": [row.reward_order.share for row in rows],
        "vote share": [row.vote_share for row in rows],
    }
    divergence = {
        "against M0": [row.kl_to_seed_per_token for row in rows],
        "against the model before": [row.kl_to_previous_per_token for row in rows],
    }
    figures = [
        _over_models(title, note, unit, names, found)
        for title, note, unit, found in (
            (
                "Reward",
                f"Mean of {rows[0].reward} over all samples.",
                "reward",
                {"mean": [row.mean_reward for row in rows]},
            ),
            ("Samples", OF_SAMPLES, "share", shares),
            (
                "Entropy",
                "Mean of -log p over sampled tokens.",
                "nats per token",
                {"entropy": [row.entropy for row in rows]},
            ),
            (
                "Divergence",
                "k1 estimate per sampled token, nats.",
                "nats per token",
                divergence,
            ),
            (
                "Completion length",
                "Mean tokens of all samples.",
                "tokens",
                {"all": [row.mean_completion_tokens for row in rows]},
            ),
        )
        if any(value is not None for values in found.values() for value in values)
    ]
    warnings = [
        paragraph(f"{said.stage}: {said.text} ({said.name})", "warning")
        for said in records.summary.warnings
        if records.run.finished[said.stage].spec.kind in ("sample", "advantage")
    ]
    body = [
        *warnings,
        tag("div", *figures, attributes={"class": "figures"}),
        html(weighed_table(rows)),
    ]
    if records.summary.trajectories:
        body.append(html(trajectory_table(records.summary.trajectories)))
    return PageSection("samples", "Reward, and how varied the samples are", join(body))


def _profile_table(rows: Sequence[IterationSummary], distinct_2: Sequence[float | None]) -> Table:
    head = ("completions of", "KL to M0", "KL to the model before", "tokens", "chosen", "rejected")
    cells = [
        (
            f"M{row.iteration}",
            figure(row.kl_to_seed_per_token, ".3f"),
            figure(row.kl_to_previous_per_token, ".3f"),
            figure(row.mean_completion_tokens, ".1f"),
            figure(row.chosen_tokens, ".1f"),
            figure(row.rejected_tokens, ".1f"),
            percent(1 - row.distinct / row.completions),
            figure(bigrams, ".3f"),
            percent(row.truncated / row.completions),
            str(row.completions),
        )
        for row, bigrams in zip(rows, distinct_2, strict=True)
    ]
    return Table(
        "Completions sampled for training",
        (*head, "duplicates", "distinct-2", "truncated", "n"),
        tuple(cells),
        "– is not recorded; n counts completions",
    )


def _over_models(
    title: str,
    note: str,
    unit: str,
    names: Sequence[str],
    values: Mapping[str, Sequence[float | None]],
) -> Html:
    series = [
        Series(
            name,
            tuple(Point(float(place), y) for place, y in enumerate(found) if y is not None),
        )
        for name, found in values.items()
        if any(y is not None for y in found)
    ]
    covered = [p.y for one in series for p in one.points]
    frame = Frame(category_axis("completions of", names), axis_over(unit, covered, around=0.0))
    told = "; ".join(
        f"{one.name} " + ", ".join(f"{names[int(p.x)]} {p.y:.3g}" for p in one.points)
        for one in series
    )
    said = Words(title, note, alternative=f"{title}, {unit}: {told}")
    return point_figure(said, frame, series, joined=True)


def _training_name(spec: StageSpec) -> str:
    """A training in words: what it makes of what."""
    made = f"{spec.model} → {spec.result}"
    if spec.kind == "fine_tune":
        return f"Fine-tuning, {made}"
    return f"Iteration {spec.t}, {'draft, ' if spec.draft else ''}{made}"


def _steps(curve: Curve, key: str) -> tuple[Point, ...]:
    """A metric over steps; steps where it was not finite are left out."""
    return tuple(
        Point(float(line["step"]), float(line[key])) for line in curve if line.get(key) is not None
    )


def _curve_figure(title: str, unit: str, curve: Curve, key: str) -> Html:
    points = _steps(curve, key)
    if not points:
        return paragraph(f"{title}: no step has a finite {key}.", "warning")
    ys = [p.y for p in points]
    frame = Frame(_step_axis(curve), axis_over(unit, ys))
    said = Words(
        title,
        f"{key} over {len(curve)} steps: first {ys[0]:.3g}, last {ys[-1]:.3g}.",
        alternative=f"{title}: {key} from {ys[0]:.3g} to {ys[-1]:.3g} over {len(curve)} steps, "
        f"lowest {min(ys):.3g}, highest {max(ys):.3g}",
    )
    return line_figure(said, frame, [Series(key, points)])


def _margin_figure(row: IterationSummary, curve: Curve) -> Html:
    points, fixed = _steps(curve, "rewards/margins"), row.margin_fixed_point
    t = row.iteration
    ys = [p.y for p in points] or [0.0]
    level = [] if fixed is None else [Reference(f"fixed point logit C = {fixed:.2f}", fixed, fixed)]
    if row.consistency_in_loss is None:
        target = "The method uses no C."
    elif fixed is None:
        target = f"No fixed point: C in the loss is {row.consistency_in_loss:.3f}."
    else:
        target = f"C in the loss is {row.consistency_in_loss:.3f}, logit C {_minus(fixed)}."
    frame = Frame(
        _step_axis(curve),
        axis_over("margin", [*ys, *([] if fixed is None else [fixed])], around=0.0),
    )
    said = Words(
        f"Iteration {t}: margin over steps",
        f"Mean over the pairs of each step; last {_minus(ys[-1])}. {target}",
        alternative=f"Margin in iteration {t}: from {ys[0]:.2f} to {ys[-1]:.2f}. {target}",
    )
    return line_figure(said, frame, [Series("margin", points)], level)


def _minus(value: float) -> str:
    """With a sign, a true minus."""
    return signed(value, 2).replace("-", "−")


def _step_axis(curve: Curve) -> Axis:
    return axis_within("step", float(curve[0]["step"]), float(curve[-1]["step"]))
