"""Steps that make models: supervised fine-tuning (M1, witnesses) and preference training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from cream.data.splits import POLICY
from cream.loop.card import model_card
from cream.loop.context import Context, Phase
from cream.loop.shards import stopwatch
from cream.recipe.parts import MethodParts
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage, StageRecord, fingerprint
from cream.runs.tables import LOGP_PREFIX, pairs_from_table
from cream.runs.trackers import JsonlTracker, logged_metrics
from cream.stages.train import tokenise_examples, tokenise_pairs
from cream.training.loop import OnStep
from cream.training.preference import SetConsistency, train_pairs
from cream.training.sft import train_sft
from cream.training.summary import TrainingSummary
from cream.types import SeedExample, TokenisedPair

STATE = "state"
"""Folder of the resumable training state, removed when the stage is finished."""

NO_RESULT = {"compute": {"save_state_every_minutes"}}
"""Settings that do not touch the result and may change between attempts."""

Train = Callable[[Any, OnStep], TrainingSummary]
"""Trains a model in place, telling about each step."""


def sft_step(context: Context) -> StageRecord:
    """M1: M0 fine-tuned on the policy's seed examples, all of them if there are no witnesses."""
    return _fine_tune(context, "M1", context.seed_parts[POLICY], ("sft",))


def witness_step(context: Context, name: str) -> StageRecord:
    """A witness: M0 fine-tuned like M1, on other seed examples and in another order."""
    return _fine_tune(context, name, context.seed_parts[name], ("sft", name))


def _fine_tune(
    context: Context, result: str, examples: Sequence[SeedExample], seed_name: tuple[str, ...]
) -> StageRecord:
    stage = context.stage(
        context.made_by(result),
        {
            "model": context.model_fingerprint("M0"),
            "examples": fingerprint([[e.prompt.prompt_id, e.completion] for e in examples]),
            "template": context.template_fingerprint,
            "settings": context.recipe.sft.model_dump(mode="json", exclude=NO_RESULT),
        },
    )

    def train(model: Any, on_step: OnStep) -> TrainingSummary:
        encoder = context.encoder
        return train_sft(
            model,
            tokenise_examples(examples, encoder.encode_prompt, encoder.encode_completion),
            context.recipe.sft,
            seed=derive_seed(context.recipe.seed, *seed_name),
            state_dir=stage.folder / STATE,
            on_step=on_step,
        )

    return _train(context, stage, "M0", result, f"fine-tune M0 -> {result}", train)


def train_step(context: Context, phase: Phase) -> StageRecord:
    """M_{t+1}, or the future model: M_t trained on the pairs of iteration t, or of its draft."""
    t, parts = phase.t, phase.parts
    paired = context.run.finished(f"{phase.folder}/pair")
    stage = context.stage(
        f"{phase.folder}/train",
        {
            "model": context.model_fingerprint(f"M{t}"),
            "pairs": paired.fingerprint,
            "reference": context.loss_reference(t),
            "objective": parts.objective.model_dump(mode="json"),
            "settings": context.recipe.training.model_dump(mode="json", exclude=NO_RESULT),
        },
    )

    def train(model: Any, on_step: OnStep) -> TrainingSummary:
        return train_pairs(
            model,
            _training_pairs(context, phase, paired),
            parts.objective,
            context.recipe.training,
            seed=derive_seed(context.recipe.seed, *phase.seed_name),
            consistency=_set_consistency(parts, paired),
            state_dir=stage.folder / STATE,
            on_step=on_step,
        )

    label = f"{phase.label}: train M{t} -> {phase.result}"
    return _train(context, stage, f"M{t}", phase.result, label, train)


def _training_pairs(context: Context, phase: Phase, paired: Stage) -> list[TokenisedPair]:
    reference = LOGP_PREFIX + context.loss_reference(phase.t)
    matrix = context.run.finished(f"{phase.folder}/matrix")
    wanted = ["prompt_id", "completion_id", "token_ids", reference]
    prompts = context.encode(context.prompts(phase.t), 0)
    return tokenise_pairs(
        pairs_from_table(read_table(paired.folder / "pairs.parquet")),
        pa.concat_tables(matrix.tables(wanted)),
        {p.prompt.prompt_id: p.token_ids for p in prompts},
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


def _train(
    context: Context, stage: Stage, start: str, result: str, label: str, train: Train
) -> StageRecord:
    """Load model `start`, train it, save it as `result`, and finish the stage."""
    log = JsonlTracker(stage.folder / "metrics.jsonl")
    name = str(stage.inputs["stage"])
    done = stage.finished()
    if done is not None:
        context.trackers.course(name, logged_metrics(log.path))  # one that was added since
        return done
    stage.begin()
    log.clear()  # lines of an interrupted attempt; the whole course is written at the end
    context.progress.start(label, 0, "steps")

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
    needed = context.models(t + 1)  # of the iteration after the last one too: T may be raised
    made = [f"M{m}" for m in range(1, t + 1)]  # a rerun comes by here with M_{t+2} on disk
    made += [f"F{m}" for m in range(2, t + 2)]
    for name in made:
        if name not in needed:
            shutil.rmtree(context.shelf.folder / name, ignore_errors=True)
