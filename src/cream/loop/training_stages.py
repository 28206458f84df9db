"""Stages that make models: supervised fine-tuning (M1, witnesses) and preference training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any

from cream.algorithms.diagnostics import course_warnings
from cream.algorithms.objective import Objective
from cream.algorithms.preference import supervised
from cream.data.splits import POLICY
from cream.errors import NotFiniteError, TrainingError
from cream.loop.card import model_card
from cream.loop.context import Context
from cream.loop.stage_runner import keeping_what_broke, stopwatch
from cream.loop.training_examples import greedy_stages, replayed_examples, stage_examples
from cream.pair_records import PairSummary
from cream.plan import unneeded_models
from cream.recipe.parts import MethodParts
from cream.recipe.policy_gradient import PolicyGradient
from cream.records import StageSpec, TrainSummary
from cream.runs.seeds import derive_seed
from cream.runs.store import GIVEN, Stage, StageRecord, fingerprint
from cream.runs.trackers import JsonlTracker, logged_metrics
from cream.stages.train import (
    seed_examples,
)
from cream.training.loop import OnStep
from cream.training.train import TrainingSummary, train
from cream.types import SetConsistency, Tally

STATE = "state"
"""Folder of the resumable training state, removed when the stage is finished."""

OBJECTIVE = "objective.safetensors"
"""The objective's own modules, where it has any."""

NO_RESULT = {"compute": {"save_state_every_minutes"}}
"""Settings that do not touch the result and may change between attempts."""

Train = Callable[[Any, OnStep], tuple[TrainingSummary, int | None]]
"""Trains a model in place, telling about each step; with the number of seed examples replayed, None
where none were to be."""


def fine_tune_stage(context: Context, spec: StageSpec) -> StageRecord:
    """M0 fine-tuned on a part of the seed examples: M1, or a witness in an order of its own."""
    part = str(spec.seed_part)
    examples = context.plan.seed_parts[part]
    seed_name = ("sft",) if part == POLICY else ("sft", part)
    stage = context.stage(
        spec,
        {
            "model": context.model_fingerprint("M0"),
            "examples": fingerprint([[e.prompt.prompt_id, e.completion] for e in examples]),
            "template": context.template_fingerprint,
            "settings": context.recipe.sft.model_dump(mode="json", exclude=NO_RESULT),
        },
    )

    def fine_tune(model: Any, on_step: OnStep) -> tuple[TrainingSummary, None]:
        encoder = context.encoder
        summary = train(
            model,
            seed_examples(examples, encoder.encode_prompt, encoder.encode_completion),
            supervised(),
            context.recipe.sft,
            seed=derive_seed(context.recipe.seed, *seed_name),
            state_dir=stage.folder / STATE,
            on_step=on_step,
            say=context.progress.note,
        )
        return summary, None

    return _train(context, stage, fine_tune)


def train_stage(context: Context, spec: StageSpec) -> StageRecord:
    """M_{t+1}, or the future model: M_t trained on pairs or samples of iteration t or its draft."""
    parts = context.plan.phase_parts(spec)
    own, settings = context.extensions.objective, context.recipe.training
    # Left out where it is None, so that runs made before it existed keep their fingerprints.
    without: dict[str, Any] = {**NO_RESULT, **({} if settings.replay else {"replay": True})}
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

    draft = ("draft",) if spec.draft else ()
    explored: list[Tally] = []

    def prefer(model: Any, on_step: OnStep) -> tuple[TrainingSummary, int | None]:
        objective = own or _objective(context, parts, reads_reference=bool(further))
        examples, answered = stage_examples(context, spec, objective.needs)
        explored.extend([] if answered is None else [answered])
        by_epoch = replayed_examples(context, spec, objective.needs, beside=len(examples))
        again = [*chain(*by_epoch)]
        summary = train(
            model,
            examples + again,
            objective,
            settings,
            seed=derive_seed(context.recipe.seed, "train", spec.t, *draft),
            only_in={e.example_id: t for t, epoch in enumerate(by_epoch) for e in epoch},
            scale=None if own else parts.objective.stage_scale(_set_consistency(parts, decided)),
            state_dir=stage.folder / STATE,
            objective_file=stage.folder / OBJECTIVE,
            on_step=on_step,
            say=context.progress.note,
        )
        return summary, len(again) if settings.replay else None

    return _train(context, stage, prefer, explored)


def _objective(context: Context, parts: MethodParts, *, reads_reference: bool) -> Objective:
    """The method's objective; that over samples knows how many a prompt has."""
    if isinstance(parts.objective, PolicyGradient):
        samples = context.recipe.sampling.num_completions
        return parts.objective.build_for(samples, reads_reference=reads_reference)
    return parts.build_objective()


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
    context: Context, stage: Stage, train: Train, explored: Sequence[Tally] = ()
) -> StageRecord:
    """Load the model, train it (which may fill `explored`), save it, and finish the stage."""
    log = JsonlTracker(stage.folder / "metrics.jsonl")
    name, start, result = stage.spec.name, str(stage.spec.model), str(stage.spec.result)
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
        model = context.checkpoints.for_training(start)
        try:
            with keeping_what_broke(stage):
                summary, replayed_count = train(model, on_step)
        except NotFiniteError:
            raise
        except TrainingError as error:
            raise TrainingError(f"stage {name}: {error}") from error
        context.checkpoints.save(
            model, result, model_card(stage.spec, context.recipe, context.checkpoints.seed_name)
        )
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
