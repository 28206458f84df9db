"""Steps that make models: supervised fine-tuning (M1, witnesses) and preference training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from cream.algorithms.objectives import supervised
from cream.data.splits import POLICY
from cream.loop.card import model_card
from cream.loop.context import Context
from cream.loop.stage_runner import stopwatch
from cream.plan import unneeded_models
from cream.recipe.parts import MethodParts
from cream.records import StageSpec
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage, StageRecord, fingerprint
from cream.runs.tables import LOGP_PREFIX, pairs_from_table
from cream.runs.trackers import JsonlTracker, logged_metrics
from cream.stages.train import pair_examples, seed_examples
from cream.training.loop import OnStep
from cream.training.summary import TrainingSummary
from cream.training.train import train
from cream.types import Example, SetConsistency

STATE = "state"
"""Folder of the resumable training state, removed when the stage is finished."""

OBJECTIVE = "objective.safetensors"
"""The objective's own modules, where it has any."""

NO_RESULT = {"compute": {"save_state_every_minutes"}}
"""Settings that do not touch the result and may change between attempts."""

Train = Callable[[Any, OnStep], TrainingSummary]
"""Trains a model in place, telling about each step."""


def fine_tune_step(context: Context, spec: StageSpec) -> StageRecord:
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

    def fine_tune(model: Any, on_step: OnStep) -> TrainingSummary:
        encoder = context.encoder
        return train(
            model,
            seed_examples(examples, encoder.encode_prompt, encoder.encode_completion),
            supervised(),
            context.recipe.sft,
            seed=derive_seed(context.recipe.seed, *seed_name),
            state_dir=stage.folder / STATE,
            on_step=on_step,
        )

    return _train(context, stage, fine_tune)


def train_step(context: Context, spec: StageSpec) -> StageRecord:
    """M_{t+1}, or the future model: M_t trained on the pairs of iteration t, or of its draft."""
    parts = context.plan.phase_parts(spec)
    paired, matrix = map(context.run.finished, spec.inputs)
    stage = context.stage(
        spec,
        {
            "model": context.model_fingerprint(str(spec.model)),
            "pairs": paired.fingerprint,
            "reference": spec.reference,
            "objective": parts.objective.model_dump(mode="json"),
            "settings": context.recipe.training.model_dump(mode="json", exclude=NO_RESULT),
        },
    )

    draft = ("draft",) if spec.draft else ()

    def prefer(model: Any, on_step: OnStep) -> TrainingSummary:
        return train(
            model,
            _training_pairs(context, spec, paired, matrix),
            parts.objective.build(),
            context.recipe.training,
            seed=derive_seed(context.recipe.seed, "train", spec.t, *draft),
            scale=parts.objective.stage_scale(_set_consistency(parts, paired)),
            state_dir=stage.folder / STATE,
            objective_file=stage.folder / OBJECTIVE,
            on_step=on_step,
        )

    return _train(context, stage, prefer)


def _training_pairs(
    context: Context, spec: StageSpec, paired: Stage, matrix: Stage
) -> list[Example]:
    reference = LOGP_PREFIX + str(spec.reference)
    wanted = ["prompt_id", "completion_id", "token_ids", reference]
    return pair_examples(
        pairs_from_table(read_table(paired.folder / "pairs.parquet")),
        pa.concat_tables(matrix.tables(wanted)),
        context.encode_set(matrix.spec.inputs[0]),
        reference_column=reference,
    )


def _set_consistency(parts: MethodParts, paired: Stage) -> SetConsistency | None:
    """The C of the whole set, for objectives that act on it."""
    agreement = parts.agreement
    record = paired.finished()
    measured = record.summary["consistency"] if record else None
    if agreement is None or measured is None:
        return None
    return SetConsistency(
        rate=measured["rate"],
        low=measured["low"],
        high=measured["high"],
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
        model = context.shelf.for_training(start)
        summary = train(model, on_step)
        context.shelf.save(
            model, result, model_card(result, context.recipe, context.shelf.seed_name)
        )
    log.clear()
    for step, metrics in enumerate(summary.metrics, start=1):
        log.log(metrics, step=step, stage=name)
    context.trackers.course(name, summary.metrics)
    shutil.rmtree(stage.folder / STATE, ignore_errors=True)
    record = stage.finish(_figures(summary), seconds())
    context.progress.finish(f"{summary.steps} steps, saved {context.shelf.path(result)}")
    for warning in summary.warnings:
        context.progress.note(warning)
    return record


def _figures(summary: TrainingSummary) -> dict[str, Any]:
    last = summary.metrics[-1] if summary.metrics else {}
    return {
        "steps": summary.steps,
        "tally": {"total": summary.tally.total, "parts": dict(summary.tally.parts)},
        "precision": summary.precision,
        "layout": summary.layout,
        "learning_rate_scale": summary.learning_rate_scale,
        "skipped": summary.skipped,
        "warnings": list(summary.warnings),
        "last_step": dict(last),
    }


def remove_unneeded(context: Context, t: int) -> None:
    """After iteration t, delete models no later stage needs (``keep_checkpoints: last``)."""
    if context.recipe.keep_checkpoints == "all":
        return
    for name in unneeded_models(context.plan, context.recipe, t):
        shutil.rmtree(context.shelf.folder / name, ignore_errors=True)
