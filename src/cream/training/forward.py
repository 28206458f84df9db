"""The model as a function from a batch to token log-probabilities and the hidden states asked for.

It takes the cheapest exact route.

A Llama-shaped model with short rows is trained in its fused form (`cream.training.fused_training`),
any other in its own. There two shortcuts are taken only where a small float32 trial on the model
itself shows that they change nothing: running the head on completion tokens alone (instead of
logits for every position), and chosen and rejected in one row under a 4-D mask (instead of one row
each). The trial costs a few forward passes of a few tokens; no list of architectures is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from cream.algorithms.logps import logps_from_hidden, logps_from_logits
from cream.algorithms.objective import LayerHook
from cream.errors import ModelError
from cream.models.fused_decoder import FusedDecoder, fused_decoder
from cream.models.hidden import hidden, of_rows, stacked
from cream.models.positions import fast_reach, text_config
from cream.recipe.training import TrainingSettings
from cream.training.batches import Row, TokenBatch, lay_out
from cream.training.fused_training import FusedTraining, fits

SUM_TOLERANCE = 0.05
"""Largest difference, in nats of a whole row, at which a shortcut counts as exact: if every token
of the longest row to come were off like the worst of the trial, in float32."""


@dataclass(frozen=True, slots=True)
class Computed:
    """What a forward pass gives for a batch."""

    token_logps: Float[Tensor, " target"]
    states: Float[Tensor, "state hidden"] | None
    """Last hidden states at the state places of the batch; None if it has none."""


Forward = Callable[[Any, TokenBatch, LayerHook | None], Computed]


class Policy(nn.Module):
    """A model as one call from a batch to what an objective reads: the root of its shards.

    Embedding, norm and head are gathered by this call and used inside it; a model's parts called
    from elsewhere would meet shards.
    """

    def __init__(self, model: Any, forward: Forward) -> None:
        super().__init__()
        self.model = model
        self.by_model = forward

    def forward(
        self, batch: TokenBatch, hook: LayerHook | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Log-probabilities of the targets, and the hidden states asked for."""
        computed: Computed = self.by_model(self.model, batch, hook)
        # Not views of what the layers gave: FSDP hangs its hooks on what is returned.
        states = None if computed.states is None else computed.states.clone()
        return computed.token_logps.clone(), states


FUSED_ROW = 512
"""Tokens of a row up to which the fused form trains: without a kernel its attention is plain."""


@dataclass(frozen=True, slots=True)
class Route:
    """How log-probabilities of a model are computed."""

    by_model: Forward
    head: Literal["hidden", "logits"]
    layout: Literal["shared", "separate"]
    decoder: FusedDecoder | None = None
    """The model's fused form, if that is what trains."""

    def forward(self, model: Any, batch: TokenBatch, hook: LayerHook | None = None) -> Computed:
        """Run a batch through the model, or the `FusedTraining` or `Policy` made of it."""
        if isinstance(model, FusedTraining):
            return Computed(*model.forward(batch, hook))
        if isinstance(model, Policy):
            return Computed(*model(batch, hook))
        return self.by_model(model, batch, hook)


def by_hidden(model: Any, batch: TokenBatch, hook: LayerHook | None = None) -> Computed:
    """Run the layers, then the head on the predicting positions only."""
    states = hidden(model, batch.input_ids, batch.position_ids, batch.row_mask, hook)
    predictors = states[batch.target_rows, batch.target_positions]
    head = model.get_output_embeddings()
    bias = getattr(head, "bias", None)
    logps = logps_from_hidden(predictors, head.weight, batch.targets, bias)
    return Computed(logps, _states(states, batch))


def by_logits(model: Any, batch: TokenBatch, hook: LayerHook | None = None) -> Computed:
    """Take the logits the model itself returns: right for every model, in more memory.

    Raises:
        ModelError: Hidden states are wanted and the model has no layers apart from its head.
    """
    wants_states = len(batch.state_rows) > 0
    if wants_states and not _supports_head(model):
        raise ModelError(
            "the objective reads hidden states, and this model gives logits only. Train with an "
            "objective that reads log-probabilities alone."
        )
    with _last_hidden_states(model if wants_states else None) as seen:
        logits = of_rows(model, "logits", batch.input_ids, batch.position_ids, batch.row_mask, hook)
    logps = logps_from_logits(logits[batch.target_rows, batch.target_positions], batch.targets)
    return Computed(
        logps, _states(stacked(seen, batch.input_ids.shape[1]), batch) if wants_states else None
    )


def _states(states: Float[Tensor, "row token hidden"], batch: TokenBatch) -> Tensor | None:
    if not len(batch.state_rows):
        return None
    return states[batch.state_rows, batch.state_positions]


@contextmanager
def _last_hidden_states(model: Any | None) -> Iterator[list[Tensor]]:
    """Collect what the layers of a model give while it runs inside."""
    seen: list[Tensor] = []
    if model is None:
        yield seen
        return
    handle = model.base_model.register_forward_hook(
        lambda module, given, output: seen.append(output.last_hidden_state)
    )
    try:
        yield seen
    finally:
        handle.remove()


def choose_route(
    model: Any,
    *,
    layout: Literal["auto", "shared", "separate"] = "separate",
    longest_row: int = 0,
    fused: bool = False,
) -> Route:
    """Try the shortcuts on the model and return the cheapest exact route.

    Args:
        model: A float32 causal language model in evaluation mode.
        layout: What the recipe asks for.
        longest_row: Tokens of the longest row to come. The shortcuts are taken up to where the
            configuration proves that they are the model's formula (`fast_reach`): the trial is
            too short to see a window.
        fused: Whether the model's fused form may train: all its parameters, without checkpointing.

    Raises:
        ModelError: A shared layout was demanded and does not give the model's own result.
    """
    vocab_size = text_config(model.config).vocab_size
    proved = fast_reach(model.config).holds(longest_row)
    batch = lay_out(_trial_rows(vocab_size, shared=False)).to(_device(model))
    with torch.no_grad():
        truth = by_logits(model, batch).token_logps
        exact = _supports_head(model) and _close(
            truth, _attempt(by_hidden, model, batch), longest_row
        )
        forward = by_hidden if exact else by_logits
        shares = (
            layout != "separate" and proved and _may_share(model, forward, vocab_size, longest_row)
        )
    if layout == "shared" and not shares:
        raise ModelError(
            "training.compute.pair_layout: this model does not give the same log-probabilities "
            "with chosen and rejected in one row (its attention takes no 4-D mask, or "
            f"{fast_reach(model.config).reason or 'a trial found a difference'}). Set pair_layout "
            "to auto or separate."
        )
    decoder = None
    if fused and exact and proved and longest_row <= FUSED_ROW and fits(model):
        decoder = fused_decoder(model)
    return Route(
        forward,
        "hidden" if exact else "logits",
        "shared" if shares else "separate",
        decoder,
    )


def named_route(head: Literal["hidden", "logits"], layout: Literal["shared", "separate"]) -> Route:
    """The route that a trial elsewhere has chosen, in the model's own form."""
    return Route(by_hidden if head == "hidden" else by_logits, head, layout)


def allows_fused(config: TrainingSettings) -> bool:
    """Whether a training's settings leave the fused form possible."""
    return config.lora is None and not config.compute.gradient_checkpointing


@contextmanager
def inference_behaviour(model: Any, *, gradient_checkpointing: bool) -> Iterator[None]:
    """Train without dropout: evaluation mode with gradients, and the mode put back afterwards.

    Every token that is read trains its embedding, one that has the pad id too: padding is known by
    place, and the pad id is often the end of every turn of a chat.

    transformers checkpoints a layer only if that layer is in training mode, so with checkpointing
    the layer alone (not the modules inside it, where dropout lives) is put into it.
    """
    modes = {module: module.training for module in model.modules()}
    pads = {m: m.padding_idx for m in model.modules() if isinstance(m, nn.Embedding)}
    model.eval()
    for embedding in pads:
        embedding.padding_idx = None
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
        for embedding, pad in pads.items():
            embedding.padding_idx = pad
        for module, training in modes.items():
            module.training = training


def _may_share(model: Any, forward: Forward, vocab_size: int, longest_row: int) -> bool:
    separate, shared = (
        lay_out(_trial_rows(vocab_size, shared=shared)).to(_device(model))
        for shared in (False, True)
    )
    truth = forward(model, separate, None).token_logps
    return _close(truth, _attempt(forward, model, shared), longest_row)


def _attempt(forward: Forward, model: Any, batch: TokenBatch) -> Tensor | None:
    try:
        return forward(model, batch, None).token_logps
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        # Foreign model code that refuses a mask or lacks a part does so in one of these ways.
        return None


def _close(truth: Tensor, answer: Tensor | None, longest_row: int) -> bool:
    if answer is None:
        return False
    return float((truth - answer).abs().max()) * max(longest_row, len(truth)) < SUM_TOLERANCE


def _supports_head(model: Any) -> bool:
    return hasattr(model, "get_output_embeddings") and hasattr(model, "base_model")


def _device(model: Any) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))


def _trial_rows(vocab_size: int, *, shared: bool) -> list[Row]:
    """Two prompts with two completions each, unequal so that padding and restarts occur.

    Shared or not, the targets come in the same order.
    """
    draw = torch.Generator().manual_seed(0)
    ids = tuple(torch.randint(vocab_size, (32,), generator=draw).tolist())
    rows = [Row(ids[:7], (ids[7:12], ids[12:15])), Row(ids[15:18], (ids[18:20], ids[20:26]))]
    if shared:
        return rows
    return [Row(row.prompt_token_ids, (ids,)) for row in rows for ids in row.completions]
