"""The preference stage: train a policy on pairs under an objective (M_t to M_{t+1}).

Reference log-probabilities arrive with the pairs, from the score matrix; no reference model runs.
The loss of a step is the mean over its pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from cream.errors import DataError, TrainingError
from cream.models.devices import pick_compute_dtype
from cream.recipe.objectives import Cream, ObjectiveConfig
from cream.recipe.training import TrainingConfig
from cream.training.batches import shared_length
from cream.training.forward import allows_lean, choose_route, inference_behaviour
from cream.training.loop import OnStep, Optimised, optimise
from cream.training.lora import adapters
from cream.training.objective import build_objective
from cream.training.pairs import PairTask, longest_of
from cream.training.summary import TrainingSummary, fingerprint_of
from cream.types import Tally, TokenisedPair

CHOSEN_FALL_NATS = 1.0
"""Mean fall of log p(chosen) against the loss reference, late in training, that is warned about."""


@dataclass(frozen=True, slots=True)
class SetConsistency:
    """The C of a whole set of pairs, with its interval."""

    rate: float
    low: float
    high: float
    level: Literal["set", "sample", "pair"]
    """Which level the pairs carry; only ``set`` can decide about the stage as a whole."""


def train_pairs(
    model: Any,
    pairs: Sequence[TokenisedPair],
    objective: ObjectiveConfig,
    config: TrainingConfig,
    *,
    seed: int,
    consistency: SetConsistency | None = None,
    state_dir: Path | None = None,
    on_step: OnStep | None = None,
) -> TrainingSummary:
    """Train a float32 model in place.

    Args:
        model: Float32 transformers causal language model; float32 on return as well.
        pairs: Token ids, reference log-probabilities and C of each pair.
        objective: Which loss.
        config: Optimiser, epochs, adapters, memory and speed.
        seed: Seed of the order (and of adapters); the order depends on ids, not on positions.
        consistency: C of the set; needed if ``set_level_action`` is not ``train``.
        state_dir: Folder from which an interrupted training goes on, or None.
        on_step: Called after every step.

    Returns:
        What was trained and how. Metrics of a step: ``loss``, ``rewards/*``, ``logps/*``,
        ``grad_norm``, ``learning_rate``.

    Raises:
        DataError: No pair is left, or two have one id.
        TrainingError: A loss is not finite, `state_dir` belongs to another training, or the
            objective's set-level action lacks a set-level C.
    """
    kept, dropped = _usable(pairs, config.max_length)
    scale, skipped = set_level_scale(objective, consistency)
    device = model.get_input_embeddings().weight.device
    dtype = pick_compute_dtype(device, config.compute.precision).dtype
    with inference_behaviour(model, gradient_checkpointing=False):
        route = choose_route(
            model,
            layout=config.compute.pair_layout,
            longest_row=max(map(shared_length, kept)),
            lean=allows_lean(config),
        )
    done = Optimised((), 0, 0.0)
    if skipped is None:
        work = PairTask(model, kept, build_objective(objective), route, device)
        fingerprint = fingerprint_of(
            kept, objective, config, seed=seed, dtype=dtype, learning_rate_scale=scale
        )
        with adapters(model, config.lora, seed=seed):
            done = optimise(
                model,
                work.task(config, seed=seed, fingerprint=fingerprint),
                config.optimiser,
                config.compute,
                dtype=dtype,
                learning_rate_scale=scale,
                seed=seed,
                state_dir=state_dir,
                on_step=on_step,
            )
    trained, untrained = (len(kept), 0) if skipped is None else (0, len(kept))
    return TrainingSummary(
        steps=len(done.metrics),
        tally=Tally(len(pairs), {"trained": trained, "skipped": untrained, **dropped}),
        metrics=done.metrics,
        real_tokens=done.real_tokens,
        seconds=done.seconds,
        precision=str(dtype).removeprefix("torch."),
        head=route.head,
        layout=route.layout,
        learning_rate_scale=scale,
        skipped=skipped,
        warnings=_warnings(done, objective.beta),
    )


def set_level_scale(
    objective: ObjectiveConfig, consistency: SetConsistency | None
) -> tuple[float, str | None]:
    """Return the factor on the learning rate and, if the stage is skipped, the reason.

    Adam's step does not depend on the scale of the gradient, so a set-level C near 1/2 would be
    trained at full step size on noise. Only `Cream` has the option.

    Raises:
        TrainingError: The action needs one C of the whole set and there is none.
    """
    if not isinstance(objective, Cream) or objective.set_level_action == "train":
        return 1.0, None
    if consistency is None or consistency.level != "set":
        raise TrainingError(
            f"objective.set_level_action: {objective.set_level_action!r} needs one C for the whole "
            "set of pairs, and these pairs carry C per prompt or pair. Set it to train."
        )
    match objective.set_level_action:
        case "scale_lr":
            scale = max(0.0, 2 * consistency.rate - 1)
            reason = f"C = {consistency.rate:.3f} scales the learning rate to 0"
            return scale, None if scale > 0 else reason
        case "skip":
            if consistency.low > 0.5:
                return 1.0, None
            interval = f"[{consistency.low:.3f}, {consistency.high:.3f}]"
            return 0.0, f"the interval of C, {interval}, reaches down to 1/2"


def _usable(
    pairs: Sequence[TokenisedPair], max_length: int
) -> tuple[list[TokenisedPair], dict[str, int]]:
    short = [p for p in pairs if longest_of(p) <= max_length]
    kept = [p for p in short if p.chosen_ids and p.rejected_ids]
    if not kept:
        raise DataError(
            f"none of {len(pairs)} pairs has two completions and at most {max_length} tokens. "
            "Raise training.max_length, or look at the tally of the pairing stage."
        )
    return kept, {"too_long": len(pairs) - len(short), "empty": len(short) - len(kept)}


def _warnings(done: Optimised, beta: float) -> tuple[str, ...]:
    last = done.metrics[-max(1, len(done.metrics) // 3) :]
    if not last:
        return ()
    change = sum(m["rewards/chosen"] for m in last) / len(last) / beta
    if change > -CHOSEN_FALL_NATS:
        return ()
    return (
        f"log p(chosen) fell by {-change:.1f} nats against the loss reference: the objective "
        "lowers both completions. Lower the learning rate, or add an NLL term.",
    )
