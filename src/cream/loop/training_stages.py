"""Stages that make models: supervised fine-tuning (M1, witnesses) and preference training."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from cream.algorithms.consistency import StageScale
from cream.algorithms.diagnostics import course_warnings
from cream.algorithms.objective import Objective
from cream.algorithms.preference import supervised
from cream.data.splits import POLICY
from cream.errors import NotFiniteError, TrainingError
from cream.loop.context import Context
from cream.loop.stage_runner import keeping_what_broke, stopwatch
from cream.loop.trained import STATE, Given, Training, trained
from cream.loop.training_examples import greedy_stages, replayed_examples, stage_examples
from cream.pair_records import PairSummary
from cream.plan import unneeded_models
from cream.recipe.parts import MethodParts
from cream.records import StageSpec, TrainSummary
from cream.runs.seeds import derive_seed
from cream.runs.store import GIVEN, Stage, StageRecord, fingerprint
from cream.runs.trackers import JsonlTracker, logged_metrics
from cream.stages.train import seed_examples
from cream.training.rank import Described, method_objective
from cream.training.state import NO_RESULT
from cream.training.train import TrainingSummary
from cream.types import SetConsistency, Tally

_NO_RESULT: dict[str, Any] = {"compute": set(NO_RESULT)}


def fine_tune_stage(context: Context, spec: StageSpec) -> StageRecord:
    """M0 fine-tuned on a part of the seed examples: M1, or a witness in an order of its own."""
    part = str(spec.seed_part)
    examples = context.plan.seed_parts[part]
    seed_name = ("sft",) if part == POLICY else ("sft", part)
    stage = context.stage(
        spec,
        {
            "model": context.model_fingerprint("M0"),
            "examples": fingerprint([example.content for example in examples]),
            "template": context.template_fingerprint,
            "settings": context.recipe.sft.model_dump(mode="json", exclude=_NO_RESULT),
        },
    )

    def given() -> Given:
        encoder = context.encoder
        return Given(seed_examples(examples, encoder))

    seed = derive_seed(context.recipe.seed, *seed_name)
    training = Training("sft", context.recipe.sft, supervised(), None, given, seed)
    return _train(context, stage, training)


def train_stage(context: Context, spec: StageSpec) -> StageRecord:
    """M_{t+1}, the future model, or a witness that learns: trained on what iteration t decided."""
    parts = context.plan.phase_parts(spec)
    own, settings = context.extensions.objective, context.recipe.training
    # Left out where it is None, so that runs made before it existed keep their fingerprints.
    without: dict[str, Any] = {**_NO_RESULT, **({} if settings.replay else {"replay": True})}
    decided, _, *further = map(context.run.finished, spec.inputs)
    weighed, greedy = decided.spec.kind == "advantage", greedy_stages(further)
    stage = context.stage(
        spec,
        {
            "model": context.model_fingerprint(str(spec.model)),
            "advantages" if weighed else "pairs": decided.fingerprint,
            **{made.spec.kind: made.fingerprint for made in further if made not in greedy},
            **({"greedy": greedy[-1].fingerprint} if greedy else {}),
            "reference": spec.reference,
            "objective": _objective_inputs(own) if own else parts.objective.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json", exclude=without),
        },
    )

    explored: list[Tally] = []

    samples = context.recipe.sampling.num_completions
    objective = own or method_objective(parts, samples, reads_reference=bool(further))

    def given() -> Given:
        examples, answered = stage_examples(context, spec, objective.needs)
        explored.extend([] if answered is None else [answered])
        by_epoch = replayed_examples(context, spec, objective.needs, beside=len(examples))
        again = [*chain(*by_epoch)]
        only_in = {e.example_id: t for t, epoch in enumerate(by_epoch) for e in epoch}
        return Given(examples + again, only_in, len(again) if settings.replay else None)

    def scale() -> StageScale:
        if own:
            return StageScale()
        return parts.objective.stage_scale(_set_consistency(parts, decided))

    described = Described(parts.model_dump(mode="json"), samples, bool(further))
    training = Training(
        "training",
        settings,
        objective,
        None if own else described,
        given,
        derive_seed(context.recipe.seed, "train", spec.t, *spec.branch),
        scale,
    )
    return _train(context, stage, training, explored)


def _objective_inputs(objective: Objective) -> dict[str, str]:
    """A user's objective as an input of the stage that trains under it."""
    return {GIVEN: objective.name, "fingerprint": objective.fingerprint}


def _set_consistency(parts: MethodParts, paired: Stage) -> SetConsistency | None:
    """The C of the whole set, for objectives that act on it."""
    agreement, record = parts.agreement, paired.finished()
    if agreement is None or record is None:
        return None
    measured = PairSummary.read(record.summary, paired.folder).consistency
    if measured is None:
        return None
    return SetConsistency(
        rate=measured.rate,
        low=measured.low,
        high=measured.high,
        level=agreement.level_name,
    )


def _train(
    context: Context, stage: Stage, training: Training, explored: Sequence[Tally] = ()
) -> StageRecord:
    """Load the model, train it (which may fill `explored`), save it, and finish the stage."""
    log = JsonlTracker(stage.folder / "metrics.jsonl")
    name, result = stage.spec.name, str(stage.spec.result)
    done = stage.finished()
    if done is not None:
        context.trackers.course(name, logged_metrics(log.path))  # one that was added since
        return done
    stage.begin()
    log.clear()  # lines of an interrupted attempt; the whole course is written at the end
    context.progress.start(stage.spec.label, 0, "steps")

    def on_step(step: int, total: int, metrics: Mapping[str, float]) -> None:
        log.log(metrics, step=step, stage=name)
        context.trackers.live(name, step, metrics)
        context.progress.advance_to(step, total, metrics)

    with stopwatch() as seconds:
        try:
            with keeping_what_broke(stage):
                summary, replayed_count = trained(context, stage, training, on_step)
        except NotFiniteError:
            raise
        except TrainingError as error:
            raise TrainingError(f"stage {name}: {error}") from error
    log.clear()
    for step, metrics in enumerate(summary.metrics, start=1):
        log.log(metrics, step=step, stage=name)
    context.trackers.course(name, summary.metrics)
    shutil.rmtree(stage.folder / STATE, ignore_errors=True)
    record = stage.finish(_figures(summary, replayed_count, *explored), seconds())
    beside = f", {replayed_count} seed examples replayed" if replayed_count is not None else ""
    path = context.checkpoints.path(result)
    context.progress.finish(f"{summary.steps} steps{beside}, saved {path}")
    for warning in (*summary.warnings, *course_warnings(summary.metrics).values()):
        context.progress.note(warning)
    return record


def _figures(
    summary: TrainingSummary, replayed_count: int | None, answers: Tally | None = None
) -> dict[str, Any]:
    last = summary.metrics[-1] if summary.metrics else {}
    return TrainSummary(
        steps=summary.steps,
        tally=summary.tally,
        replayed=replayed_count,
        precision=summary.precision,
        layout=summary.layout,
        learning_rate_scale=summary.learning_rate_scale,
        skipped=summary.skipped,
        steps_at_rounding=summary.steps_at_rounding,
        relative_movement=summary.relative_movement,
        warnings=list(summary.warnings),
        last_step=dict(last),
        answers=answers,
    ).as_json()


def remove_unneeded(context: Context, t: int) -> None:
    """After iteration t, delete models no later stage needs (``keep_checkpoints: last``)."""
    if context.recipe.keep_checkpoints == "all":
        return
    for name in unneeded_models(context.plan, context.recipe, t):
        context.run.finished(context.plan.maker(name).name).remove_model("keep_checkpoints: last")
