"""The model as a function from a batch to token log-probabilities, by the cheapest exact route.

A Llama-shaped model with short rows is trained in its fused form (`cream.training.lean`), any other
in its own. There two shortcuts are taken only where a small float32 trial on the model itself shows
that they change nothing: running the head on completion tokens alone (instead of logits for every
position), and chosen and rejected in one row under a 4-D mask (instead of one row each). The trial
costs a few forward passes of a few tokens; no list of architectures is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from cream.algorithms.logps import logps_from_hidden, logps_from_logits
from cream.errors import ModelError
from cream.models.lean import LeanDecoder, lean_decoder
from cream.recipe.training import SftConfig, TrainingConfig
from cream.training.batches import TokenBatch, separate_pair_batch, shared_pair_batch
from cream.training.lean import LeanModel, fits
from cream.types import TokenisedPair

TRIAL_TOLERANCE = 1e-3
"""Largest difference, in nats of a token, at which a shortcut counts as exact in float32."""

TokenLogps = Callable[[Any, TokenBatch], Tensor]


LEAN_ROW = 512
"""Tokens of a row up to which the fused form trains: without a kernel its attention is plain."""


@dataclass(frozen=True, slots=True)
class Route:
    """How log-probabilities of a model are computed."""

    by_model: TokenLogps
    head: Literal["hidden", "logits"]
    layout: Literal["shared", "separate"]
    decoder: LeanDecoder | None = None
    """The model's fused form, if that is what trains."""

    def token_logps(self, model: Any, batch: TokenBatch) -> Float[Tensor, " target"]:
        """Log-probabilities of a batch under the model or the `LeanModel` made of it."""
        if isinstance(model, LeanModel):
            return model.token_logps(batch)
        return self.by_model(model, batch)


def logps_by_hidden(model: Any, batch: TokenBatch) -> Float[Tensor, " target"]:
    """Run the layers, then the head on the predicting positions only."""
    output = model.base_model(
        input_ids=batch.input_ids,
        attention_mask=_attention_mask(model, batch),
        position_ids=batch.position_ids,
        use_cache=False,
    )
    hidden = output.last_hidden_state[batch.target_rows, batch.target_positions]
    head = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    return logps_from_hidden(hidden, head.weight, batch.targets, bias)


def logps_by_logits(model: Any, batch: TokenBatch) -> Float[Tensor, " target"]:
    """Take the logits the model itself returns: right for every model, in more memory."""
    output = model(
        input_ids=batch.input_ids,
        attention_mask=_attention_mask(model, batch),
        position_ids=batch.position_ids,
        use_cache=False,
    )
    logits = output.logits[batch.target_rows, batch.target_positions]
    return logps_from_logits(logits, batch.targets)


def choose_route(
    model: Any,
    *,
    layout: Literal["auto", "shared", "separate"] = "separate",
    longest_row: int = 0,
    lean: bool = False,
) -> Route:
    """Try the shortcuts on the model and return the cheapest exact route.

    Args:
        model: A float32 causal language model in evaluation mode.
        layout: What the recipe asks for.
        longest_row: Tokens of the longest shared row to come; beyond a sliding window the mask of
            a shared row would not be the model's own.
        lean: Whether the model's fused form may train: all its parameters, without checkpointing.

    Raises:
        ModelError: A shared layout was demanded and does not give the model's own result.
    """
    pairs = _trial_pairs(model.config.vocab_size)
    batch = separate_pair_batch(pairs).tokens.to(_device(model))
    with torch.no_grad():
        truth = logps_by_logits(model, batch)
        by_hidden = _supports_head(model) and _close(truth, _attempt(logps_by_hidden, model, batch))
        token_logps = logps_by_hidden if by_hidden else logps_by_logits
        shares = layout != "separate" and _may_share(model, token_logps, longest_row)
    if layout == "shared" and not shares:
        raise ModelError(
            "training.compute.pair_layout: this model does not give the same log-probabilities "
            "with chosen and rejected in one row (its attention takes no 4-D mask, or its sliding "
            "window is shorter than a row). Set pair_layout to auto or separate."
        )
    decoder = None
    if lean and by_hidden and longest_row <= LEAN_ROW and fits(model):
        decoder = lean_decoder(model)
    return Route(
        token_logps,
        "hidden" if by_hidden else "logits",
        "shared" if shares else "separate",
        decoder,
    )


def allows_lean(config: SftConfig | TrainingConfig) -> bool:
    """Whether a training's settings leave the fused form possible."""
    return config.lora is None and not config.compute.gradient_checkpointing


@contextmanager
def inference_behaviour(model: Any, *, gradient_checkpointing: bool) -> Iterator[None]:
    """Train without dropout: evaluation mode with gradients, and the mode put back afterwards.

    transformers checkpoints a layer only if that layer is in training mode, so with checkpointing
    the layer alone (not the modules inside it, where dropout lives) is put into it.
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        for module in model.modules():
            if getattr(module, "gradient_checkpointing", False):
                module.training = True
    try:
        yield
    finally:
        if gradient_checkpointing:
            model.gradient_checkpointing_disable()
        for module, training in modes.items():
            module.training = training


def _attention_mask(model: Any, batch: TokenBatch) -> Tensor:
    """Give ones for plain rows (padding is at the end, so causality hides it), else a 4-D mask."""
    if not batch.shares_prompts:
        return torch.ones_like(batch.input_ids)
    dtype = next(model.parameters()).dtype
    blocked = torch.finfo(dtype).min
    return torch.zeros((), dtype=dtype, device=batch.input_ids.device).masked_fill(
        ~batch.allowed(), blocked
    )


def _may_share(model: Any, token_logps: TokenLogps, longest_row: int) -> bool:
    window = getattr(model.config, "sliding_window", None)
    if window is not None and longest_row > window:
        return False
    pairs, device = _trial_pairs(model.config.vocab_size), _device(model)
    shared, separate = shared_pair_batch(pairs).to(device), separate_pair_batch(pairs).to(device)
    truth = separate.tokens.table(token_logps(model, separate.tokens))
    answer = _attempt(token_logps, model, shared.tokens)
    if answer is None:
        return False
    table = shared.tokens.table(answer)
    return _close(truth[separate.chosen], table[shared.chosen]) and _close(
        truth[separate.rejected], table[shared.rejected]
    )


def _attempt(token_logps: TokenLogps, model: Any, batch: TokenBatch) -> Tensor | None:
    try:
        return token_logps(model, batch)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        # Foreign model code that refuses a mask or lacks a part does so in one of these ways.
        return None


def _close(truth: Tensor, answer: Tensor | None) -> bool:
    return answer is not None and bool((truth - answer).abs().max() < TRIAL_TOLERANCE)


def _supports_head(model: Any) -> bool:
    return hasattr(model, "get_output_embeddings") and hasattr(model, "base_model")


def _device(model: Any) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _trial_pairs(vocab_size: int) -> list[TokenisedPair]:
    """Two pairs of unequal lengths, so that padding, sharing and restarts all occur."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(vocab_size, (32,), generator=draw).tolist()
    return [
        TokenisedPair("a", tuple(ids[:7]), tuple(ids[7:12]), tuple(ids[12:15]), 0.0, 0.0),
        TokenisedPair("b", tuple(ids[15:18]), tuple(ids[18:20]), tuple(ids[20:26]), 0.0, 0.0),
    ]
