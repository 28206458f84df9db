"""Steps that make models: supervised fine-tuning (M0 -> M1) and preference training."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any

import pyarrow as pa

from cream.loop.card import model_card
from cream.loop.context import Context
from cream.loop.shards import stopwatch
from cream.runs.files import read_table
from cream.runs.seeds import derive_seed
from cream.runs.store import Stage, StageRecord, fingerprint
from cream.runs.tables import LOGP_PREFIX, pairs_from_table
from cream.runs.tracking import JsonlTracker
from cream.stages.train import tokenise_examples, tokenise_pairs
from cream.training import train_pairs, train_sft

STATE = "state"
"""Folder of the resumable training state, removed when the stage is finished."""


def sft_step(context: Context) -> StageRecord:
    """M1: M0 fine-tuned on the seed examples."""
    examples = context.data.seed_examples
    stage = context.stage(
        "sft/train",
        {
            "model": context.model_fingerprint(0),
            "examples": fingerprint([[e.prompt.prompt_id, e.completion] for e in examples]),
            "template": context.template_fingerprint,
            "settings": context.recipe.sft.model_dump(mode="json"),
        },
    )

    def train(model: Any, on_step: Callable[..., None]) -> dict[str, Any]:
        summary = train_sft(
            model,
            tokenise_examples(
                examples, context.encoder.encode_prompt, context.encoder.encode_completion
            ),
            context.recipe.sft,
            seed=derive_seed(context.recipe.seed, "sft"),
            state_dir=stage.folder / STATE,
            on_step=on_step,
        )
        return asdict(summary)

    return _train(context, stage, start="M0", result="M1", label="fine-tune M0 -> M1", train=train)


def train_step(context: Context, t: int) -> StageRecord:
    """M_{t+1}: M_t trained on the pairs of iteration t."""
    paired = context.run.finished(f"iteration-{t}/pair")
    parts = context.parts(t)
    reference = context.loss_reference(t)
    stage = context.stage(
        f"iteration-{t}/train",
        {
            "model": context.model_fingerprint(t),
            "pairs": paired.fingerprint,
            "reference": reference,
            "objective": parts.objective.model_dump(mode="json"),
            "settings": context.recipe.training.model_dump(mode="json"),
        },
    )
    outcome = paired.finished()
    assert outcome is not None

    def train(model: Any, on_step: Callable[..., None]) -> dict[str, Any]:
        matrix = context.run.finished(f"iteration-{t}/matrix")
        wanted = ["prompt_id", "completion_id", "token_ids", LOGP_PREFIX + reference]
        pairs = tokenise_pairs(
            pairs_from_table(read_table(paired.folder / "pairs.parquet")),
            pa.concat_tables(matrix.tables(wanted)),
            {
                p.prompt.prompt_id: p.token_ids
                for p in context.encode(context.data.prompts_for(t), 0)
            },
            reference_column=LOGP_PREFIX + reference,
        )
        summary = train_pairs(
            model,
            pairs,
            parts.objective,
            context.recipe.training,
            seed=derive_seed(context.recipe.seed, "train", t),
            state_dir=stage.folder / STATE,
            on_step=on_step,
        )
        return asdict(summary)

    return _train(
        context,
        stage,
        start=f"M{t}",
        result=f"M{t + 1}",
        label=f"iteration {t}: train M{t} -> M{t + 1}",
        train=train,
    )


def _train(
    context: Context,
    stage: Stage,
    *,
    start: str,
    result: str,
    label: str,
    train: Callable[[Any, Callable[..., None]], dict[str, Any]],
) -> StageRecord:
    """Load `start`, train it, save it as `result`, and finish the stage."""
    done = stage.finished()
    if done is not None:
        return done
    stage.begin()
    log = JsonlTracker(stage.folder / "metrics.jsonl")
    last = -1

    def on_step(step: int, total: int, metrics: Mapping[str, float]) -> None:
        nonlocal last
        if last < 0:
            log.rewind(step)
            context.progress.start(label, total, "steps", done=step - 1)
        log.log(metrics, step=step, stage=str(stage.inputs["stage"]))
        context.progress.advance(1, metrics)
        last = step

    with stopwatch() as seconds:
        model = context.shelf.for_training(start)
        summary = train(model, on_step)
        card = model_card(result, context.recipe, context.shelf.seed_name, summary)
        context.shelf.save(model, result, card)
    shutil.rmtree(stage.folder / STATE, ignore_errors=True)
    record = stage.finish(summary, seconds())
    context.progress.finish(f"saved {context.shelf.path(result)}")
    return record


def remove_unneeded(context: Context, t: int) -> None:
    """After iteration t, delete models no later stage needs (``keep_checkpoints: last``)."""
    if context.recipe.keep_checkpoints == "all":
        return
    needed = {f"M{t + 1}", *context.columns(t + 1)}
    for folder in context.shelf.folder.glob("M*"):
        if folder.name not in needed:
            shutil.rmtree(folder)
