"""Stages that make models: supervised fine-tuning (M1, witnesses) and preference training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from cream.algorithms.diagnostics import course_warnings
from cream.algorithms.objective import Needs, Objective
from cream.algorithms.preference import PAIR, supervised
from cream.data.splits import POLICY
from cream.errors import NotFiniteError, RecipeError, TrainingError
from cream.loop.card import model_card
from cream.loop.context import Context
from cream.loop.pairing import UNANIMOUS_FILE
from cream.loop.stage_runner import keeping_what_broke, stopwatch
from cream.loop.transform_stages import transformed_examples
from cream.pair_records import PairSummary
from cream.plan import columns, score_columns, unneeded_models
from cream.recipe.parts import MethodParts
from cream.records import StageSpec, TrainSummary
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import GIVEN, Stage, StageRecord, fingerprint
from cream.runs.tables import LOGP_PREFIX, pairs_from_table
from cream.runs.trackers import JsonlTracker, logged_metrics
from cream.stages.train import (
    agreed_examples,
    pair_columns,
    pair_examples,
    replayed,
    seed_examples,
)
from cream.training.loop import OnStep
from cream.training.train import TrainingSummary, train
from cream.types import Example, SetConsistency

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
    """M_{t+1}, or the future model: M_t trained on the pairs of iteration t, or of its draft."""
    parts = context.plan.phase_parts(spec)
    own, settings = context.extensions.objective, context.recipe.training
    # Left out where it is None, so that runs made before it existed keep their fingerprints.
    without: dict[str, Any] = {**NO_RESULT, **({} if settings.replay else {"replay": True})}
    paired, matrix, *transformed = map(context.run.finished, spec.inputs)
    stage = context.stage(
        spec,
        {
            "model": context.model_fingerprint(str(spec.model)),
            "pairs": paired.fingerprint,
            **{made.spec.kind: made.fingerprint for made in transformed},
            "reference": spec.reference,
            "objective": _objective_inputs(own) if own else parts.objective.model_dump(mode="json"),
            "settings": settings.model_dump(mode="json", exclude=without),
        },
    )

    draft = ("draft",) if spec.draft else ()

    def prefer(model: Any, on_step: OnStep) -> tuple[TrainingSummary, int | None]:
        objective = own or parts.objective.build()
        c = _set_consistency(parts, paired)
        examples = (
            transformed_examples(*transformed)
            if transformed
            else _training_pairs(context, spec, paired, matrix, objective.needs)
        )
        if parts.transform is None:
            examples += _agreed(context, spec, paired, matrix)
        by_epoch = _replayed(context, spec, len(examples))
        again = [example for epoch in by_epoch for example in epoch]
        summary = train(
            model,
            examples + again,
            objective,
            settings,
            seed=derive_seed(context.recipe.seed, "train", spec.t, *draft),
            only_in={e.example_id: t for t, epoch in enumerate(by_epoch) for e in epoch},
            scale=None if own else parts.objective.stage_scale(c),
            state_dir=stage.folder / STATE,
            objective_file=stage.folder / OBJECTIVE,
            on_step=on_step,
            say=context.progress.note,
        )
        return summary, len(again) if settings.replay else None

    return _train(context, stage, prefer)


def _objective_inputs(objective: Objective) -> dict[str, str]:
    """A user's objective as an input of the stage that trains under it."""
    return {GIVEN: objective.name, "fingerprint": objective.fingerprint}


def _training_pairs(
    context: Context, spec: StageSpec, paired: Stage, matrix: Stage, needs: Needs
) -> list[Example]:
    reference = LOGP_PREFIX + str(spec.reference)
    further = [
        name
        for name in matrix_columns(context, spec)
        if any(f"{role}_{name}" in needs.columns for role in PAIR)
    ]
    wanted = dict.fromkeys(["prompt_id", "completion_id", "token_ids", reference, *further])
    completions = pa.concat_tables(matrix.tables(list(wanted)))
    return pair_examples(
        pairs_from_table(read_table(paired.folder / "pairs.parquet")),
        completions,
        context.encode_set(matrix.spec.inputs[0]),
        reference_column=reference,
        columns=needs.columns,
    )


def _agreed(context: Context, spec: StageSpec, paired: Stage, matrix: Stage) -> list[Example]:
    """Examples of what unanimous groups say, where the method trains on it."""
    if not (paired.folder / UNANIMOUS_FILE).exists():
        return []
    reference = LOGP_PREFIX + str(spec.reference)
    agreed = read_table(paired.folder / UNANIMOUS_FILE)
    return agreed_examples(
        dict(zip(*(agreed[n].to_pylist() for n in agreed.column_names), strict=True)),
        pa.concat_tables(matrix.tables(["completion_id", "token_ids", reference])),
        context.encode_set(matrix.spec.inputs[0]),
        reference_column=reference,
    )


def _replayed(context: Context, spec: StageSpec, beside: int) -> list[list[Example]]:
    """Seed examples of M1 that this training takes beside its own, by epoch."""
    settings, encoder = context.recipe.training, context.encoder
    config = settings.replay
    if config is None:
        return []
    draft = ("draft",) if spec.draft else ()
    return replayed(
        context.plan.seed_parts[POLICY],
        config,
        beside=beside,
        epochs=settings.epochs,
        seed=derive_seed(context.recipe.seed, "replay", spec.t, *draft),
        encode_prompt=encoder.encode_prompt,
        encode_completion=encoder.encode_completion,
    )


def matrix_columns(context: Context, spec: StageSpec) -> tuple[str, ...]:
    """Columns of numbers in the score matrix that a stage of training reads."""
    parts = context.plan.phase_parts(spec)
    models = (LOGP_PREFIX + model for model in columns(context.recipe, parts, spec.t))
    return (*models, *score_columns(parts))


def check_objective(context: Context) -> None:
    """An objective that examples of this run cannot feed is refused now, not after sampling.

    Raises:
        RecipeError: The user's objective names a column that examples of this run do not have, or
            seed examples are to be replayed under one that no chosen completion alone can train.
    """
    own = context.extensions.objective
    beside = context.plan.parts(1).objective.additions
    if own is not None and beside:
        raise RecipeError(
            f"objective {own.name}, given in Python, takes the place of the recipe's, whose "
            f"{beside[0].key} would be ignored; remove it from the recipe"
        )
    for spec in context.plan.stages:
        if spec.kind != "train":
            continue
        parts = context.plan.phase_parts(spec)
        if own is not None and parts.transform is None:
            known = pair_columns(matrix_columns(context, spec))
            unknown = [name for name in own.needs.columns if name not in known]
            if unknown:
                raise RecipeError(
                    f"objective {own.name} reads the column {', '.join(unknown)}, and the "
                    f"pairs of {spec.label} have {', '.join(known)}"
                )
        if context.recipe.training.replay is not None:
            _check_replay(parts, own)


def _check_replay(parts: MethodParts, own: Objective | None) -> None:
    if own is None and not parts.objective.trains_chosen_alone:
        raise RecipeError(
            "training.replay trains seed examples by likelihood, and the objective "
            f"{parts.objective.name} has no likelihood term; give it one (method.objective.nll), "
            "or leave replay out"
        )
    objective = own or parts.objective.build()
    needs = objective.needs
    demanded = {role for role in needs.roles if role not in needs.optional}
    columns = {*needs.columns} - {"consistency"}
    if not demanded <= {"chosen"} or "chosen" not in needs.scored or columns:
        raise RecipeError(
            f"training.replay gives the objective {objective.name} seed examples, which have a "
            "chosen sequence and C = 1 and nothing else; it needs "
            f"{', '.join(sorted(demanded | columns))}. Leave replay out, or make the rest optional"
        )


def _set_consistency(parts: MethodParts, paired: Stage) -> SetConsistency | None:
    """The C of the whole set, for objectives that act on it."""
    agreement = parts.agreement
    record = paired.finished()
    found = PairSummary.read(record.summary, paired.folder) if record else None
    measured = found.consistency if found else None
    if agreement is None or measured is None:
        return None
    return SetConsistency(
        rate=measured.rate,
        low=measured.low,
        high=measured.high,
        level=agreement.level_name,
    )


def _train(context: Context, stage: Stage, train: Train) -> StageRecord:
    """Load the model that a stage starts from, train it, save it as its result, and finish."""
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
    record = stage.finish(_figures(summary, replayed_count), seconds())
    beside = f", {replayed_count} seed examples replayed" if replayed_count is not None else ""
    path = context.checkpoints.path(result)
    context.progress.finish(f"{summary.steps} steps{beside}, saved {path}")
    for warning in (*summary.warnings, *course_warnings(summary.metrics).values()):
        context.progress.note(warning)
    return record


def _figures(summary: TrainingSummary, replayed_count: int | None) -> dict[str, Any]:
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
    ).as_json()


def remove_unneeded(context: Context, t: int) -> None:
    """After iteration t, delete models no later stage needs (``keep_checkpoints: last``)."""
    if context.recipe.keep_checkpoints == "all":
        return
    for name in unneeded_models(context.plan, context.recipe, t):
        context.run.finished(context.plan.maker(name).name).remove_model("keep_checkpoints: last")
