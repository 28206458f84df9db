"""Supervised fine-tuning: maximise the likelihood of given completions (M0 to M1).

The loss of a step is the mean negative log-likelihood over all completion tokens of the step, end
token included and prompt excluded, so a long completion weighs more than a short one, as in
transformers' Trainer. It is not the mean of per-example means.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cream.errors import DataError
from cream.models.devices import pick_compute_dtype
from cream.recipe.training import SftConfig
from cream.training.batches import example_batch, micro_batches, steps_of
from cream.training.forward import allows_lean, choose_route, inference_behaviour
from cream.training.loop import Contribution, OnStep, Task, optimise
from cream.training.lora import adapters
from cream.training.summary import TrainingSummary, fingerprint_of
from cream.types import Tally, TokenisedExample


def train_sft(
    model: Any,
    examples: Sequence[TokenisedExample],
    config: SftConfig,
    *,
    seed: int,
    state_dir: Path | None = None,
    on_step: OnStep | None = None,
) -> TrainingSummary:
    """Fine-tune a float32 model in place.

    Args:
        model: Float32 transformers causal language model; float32 on return as well.
        examples: Prompts with the completions to imitate, end tokens included.
        config: Optimiser, epochs, memory and speed.
        seed: Seed of the order (and of adapters); the order depends on ids, not on positions.
        state_dir: Folder from which an interrupted training goes on, or None.
        on_step: Called after every step.

    Returns:
        What was trained and how; the metrics of a step are ``loss`` (nats per completion token),
        ``grad_norm`` and ``learning_rate``.

    Raises:
        DataError: No example is left, or two have one id.
        TrainingError: A loss is not finite, or `state_dir` belongs to another training.
    """
    kept = [e for e in examples if _length(e) <= config.max_length and e.completion_ids]
    empty = sum(not e.completion_ids for e in examples)
    if not kept:
        raise DataError(
            f"none of {len(examples)} examples has a completion and at most "
            f"{config.max_length} tokens. Raise max_length or check the seed data."
        )
    plan = steps_of(
        [e.example_id for e in kept],
        batch_size=config.optimiser.batch_size,
        epochs=config.epochs,
        seed=seed,
    )
    steps = [_cut(step, kept, config.compute.micro_batch_tokens) for step in plan]
    device = model.get_input_embeddings().weight.device
    dtype = pick_compute_dtype(device, config.compute.precision).dtype
    with inference_behaviour(model, gradient_checkpointing=False):
        route = choose_route(model, longest_row=max(map(_length, kept)), lean=allows_lean(config))

    def contribute(
        computing: Any, indices: Sequence[int], step: Sequence[Sequence[int]]
    ) -> Contribution:
        batch = example_batch([kept[i] for i in indices]).to(device)
        step_tokens = sum(len(kept[i].completion_ids) for part in step for i in part)
        loss = -route.token_logps(computing, batch).sum() / step_tokens
        return Contribution(loss, {}, sum(_length(kept[i]) for i in indices))

    task = Task(
        steps,
        contribute,
        max(map(_length, kept)),
        fingerprint_of(kept, config, seed=seed, dtype=dtype),
        {},
        route.decoder,
    )
    with adapters(model, config.lora, seed=seed):
        done = optimise(
            model,
            task,
            config.optimiser,
            config.compute,
            dtype=dtype,
            seed=seed,
            state_dir=state_dir,
            on_step=on_step,
        )
    tally = Tally(
        len(examples),
        {"trained": len(kept), "empty": empty, "too_long": len(examples) - len(kept) - empty},
    )
    return TrainingSummary(
        steps=len(steps),
        tally=tally,
        metrics=done.metrics,
        real_tokens=done.real_tokens,
        seconds=done.seconds,
        precision=str(dtype).removeprefix("torch."),
        head=route.head,
        layout="separate",
    )


def _length(example: TokenisedExample) -> int:
    return len(example.prompt_ids) + len(example.completion_ids)


def _cut(step: Sequence[int], examples: Sequence[TokenisedExample], budget: int) -> list[list[int]]:
    lengths = [_length(examples[i]) for i in step]
    return [[step[j] for j in part] for part in micro_batches(lengths, token_budget=budget)]
