"""From token ids to last hidden states: one call, three back ends, a hook after every layer.

Who sees whom is data. A packed stream of tokens without padding brings an `Attention`: the layers
of any Hugging Face model that calls an exchangeable attention function run unchanged on exactly the
tokens that matter, and a Llama-shaped model runs in its fused form (`cream.models.fused_decoder`).
Padded rows bring a `RowMask` and go through the model's own forward, with ones where causality
alone is the mask and a 4-D mask elsewhere. Whether a model gives its own results packed is tried in
`cream.engines.trial`, whether it takes a 4-D mask in `cream.training.forward`.

Seam: transformers' `AttentionInterface` (keyword arguments of the model's forward reach the
attention function; an attention name without a mask function makes the model build no mask).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from cream.algorithms.objective import LayerHook
from cream.errors import ModelError
from cream.models.fused_decoder import Attention, FusedDecoder, fused_decoder
from cream.models.padded_attention import PADDING, RowMask
from cream.models.positions import company_reach, text_config
from cream.models.precision import in_float32

_ATTENTION_NAME = "cream_packed"
_FORMULA_ARGUMENTS = ("softcap", "s_aux", "position_bias", "head_mask")
"""Arguments of an attention function that change its formula; none of them is implemented here."""


def hidden(
    model: Any,
    token_ids: Int64[Tensor, "*places"],
    positions: Int64[Tensor, "*places"],
    attention: Attention | RowMask,
    hook: LayerHook | None = None,
) -> Float[Tensor, "*places hidden"]:
    """Last hidden states of a packed stream ``(token)`` or of padded rows ``(row, token)``.

    Args:
        model: Causal language model, or for a stream its fused form.
        token_ids: What the model reads; any id where a row has no token.
        positions: Position of every token in its sequence.
        attention: Who sees whom: an `Attention` for a stream, a `RowMask` for rows.
        hook: Called after each decoder layer; what it returns goes on. Rows whose company would
            change them go through the model, and so to the hook, one at a time.

    Raises:
        ModelError: The model has no list of layers to hook, or checkpoints them.
    """
    if isinstance(attention, RowMask):
        return of_rows(model, "last_hidden_state", token_ids, positions, attention, hook)
    if isinstance(model, FusedDecoder):
        return model.hidden(token_ids, positions, attention, hook)
    of_stream = None if hook is None else lambda k, x: hook(k, x[0])[None]
    with _own_attention(model.config), hooked(model, of_stream):
        output = model.base_model(
            input_ids=token_ids[None],
            position_ids=positions[None],
            use_cache=False,
            cream_attention=attention,
        )
    return output.last_hidden_state[0]


def of_rows(
    model: Any,
    field: str,
    token_ids: Int64[Tensor, "row token"],
    positions: Int64[Tensor, "row token"],
    mask: RowMask,
    hook: LayerHook | None = None,
) -> Float[Tensor, "row token value"]:
    """What a model's own forward gives for padded rows: its ``logits`` or ``last_hidden_state``.

    All rows together, or each by itself where the length of the longest would change the others
    (`company_reach`).
    """
    module, width = model if field == "logits" else model.base_model, token_ids.shape[1]
    given = torch.ones_like(token_ids) if mask.plain else _additive(model, mask)

    def output(rows: slice, end: int) -> Tensor:
        found = module(
            input_ids=token_ids[rows, :end],
            attention_mask=given[rows, :end] if mask.plain else given[rows, :, :end, :end],
            position_ids=positions[rows, :end],
            use_cache=False,
        )
        return getattr(found, field)

    with hooked(model, hook):
        if company_reach(model.config).holds(width):
            return output(slice(None), width)
        lengths = (mask.segments != PADDING).sum(1).tolist()
        return stacked([output(slice(r, r + 1), n) for r, n in enumerate(lengths)], width)


def stacked(
    parts: list[Float[Tensor, "_ _ value"]], width: int
) -> Float[Tensor, "row width value"]:
    """Rows under each other, zeros after their tokens."""
    return torch.cat([F.pad(x, (0, 0, 0, width - x.shape[1])) for x in parts])


def _additive(model: Any, mask: RowMask) -> Float[Tensor, "row 1 token token"]:
    """A 4-D mask as transformers adds it to the scores; padding after a row needs none."""
    dtype = next(model.parameters()).dtype
    zero = torch.zeros((), dtype=dtype, device=mask.segments.device)
    return zero.masked_fill(~mask.allowed(), torch.finfo(dtype).min)


def hooked(model: Any, hook: LayerHook | None) -> AbstractContextManager[None]:
    """Put a hook behind every decoder layer of a model, if there is one, while it runs inside.

    Raises:
        ModelError: The model has no list of layers to hook, or checkpoints them.
    """
    return nullcontext() if hook is None else _layer_hooks(model, hook)


@contextmanager
def _layer_hooks(model: Any, hook: LayerHook) -> Iterator[None]:
    layers = decoder_layers(model)
    if any(getattr(x, "gradient_checkpointing", False) and x.training for x in layers):
        raise ModelError(
            "gradient checkpointing runs the layers again when the hook after each is gone. "
            "Switch off compute.gradient_checkpointing."
        )
    handles = [layer.register_forward_hook(_behind(hook, k)) for k, layer in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _behind(hook: LayerHook, index: int) -> Any:
    def changed(layer: nn.Module, given: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return hook(index, output[0]), *output[1:]
        return hook(index, output)

    return changed


def decoder_layers(model: Any) -> nn.ModuleList:
    """The list of a model's decoder layers.

    Raises:
        ModelError: It has none of as many as its configuration says.
    """
    count = text_config(model.config).num_hidden_layers
    for part in getattr(model, "base_model", model).modules():
        if isinstance(part, nn.ModuleList) and len(part) == count:
            return part
    raise ModelError(f"{type(model).__name__} has no list of its {count} decoder layers to hook")


class Backbone:
    """A model for inference as tokens to hidden states and a head, its form chosen once.

    Args:
        model: Causal language model.
        hook: What stands behind every layer, or None.
        fuses: Whether its layers may run in their fused form, which keeps weights of its own.
    """

    def __init__(self, model: Any, hook: LayerHook | None = None, *, fuses: bool = True) -> None:
        self.model = model
        self.hook = hook
        """What stands behind every layer, or None."""
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.num_layers: int = model.config.get_text_config().num_hidden_layers
        self.head: Any = model.get_output_embeddings()
        decoder = fused_decoder(model) if fuses else None
        self.fused: bool = decoder is not None
        """Whether the layers run in their fused form."""
        self._layers: Any = decoder or model
        self._logits: Tensor | None = None

    def hidden(
        self,
        token_ids: Int64[Tensor, "*places"],
        positions: Int64[Tensor, "*places"],
        attention: Attention | RowMask,
    ) -> Float[Tensor, "*places hidden"]:
        """Last hidden states by the form chosen; rows by the model's own forward (`hidden`)."""
        chosen = self.model if isinstance(attention, RowMask) else self._layers
        return hidden(chosen, token_ids, positions, attention, self.hook)

    def logits(self, states: Float[Tensor, "row hidden"]) -> Float[Tensor, "row vocab"]:
        """Logits in the model's own dtype; the next call overwrites them.

        One buffer serves all calls: a fresh one of this size comes from the system page by page,
        which on a CPU costs more than the product itself.
        """
        plain = type(self.head) is nn.Linear and self.head.bias is None
        if not plain or self.head.weight.dtype != states.dtype:
            return self.head(states)
        rows, weight = len(states), self.head.weight
        if self._logits is None or len(self._logits) < rows:
            self._logits = states.new_empty(rows, len(weight))
        return torch.mm(states, weight.T, out=self._logits[:rows])

    @contextmanager
    def in_float32(self) -> Iterator[None]:
        """Run in float32 inside, by the same form (`cream.models.precision`)."""
        layers = self._layers
        if isinstance(layers, FusedDecoder):
            self._layers = layers.in_float32()
        try:
            with in_float32(self.model):
                yield
        finally:
            self._layers = layers


def require_inference_model(model: Any) -> None:
    """Raise `ModelError` if the model is in training mode (dropout would change its numbers)."""
    if model.training:
        raise ModelError("The model is in training mode; call model.eval() before using an engine.")


@contextmanager
def _own_attention(config: Any) -> Iterator[None]:
    """Select our attention for one forward, so that other users of the model keep theirs."""
    text = config.get_text_config()
    before = text._attn_implementation
    text._attn_implementation = _ATTENTION_NAME
    try:
        yield
    finally:
        text._attn_implementation = before


def _attention_function(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    **extra: Any,
) -> tuple[Tensor, None]:
    """Attention function in the signature that transformers calls; hands over to an `Attention`."""
    changed = [name for name in _FORMULA_ARGUMENTS if extra.get(name) is not None]
    if changed or attention_mask is not None:
        raise ModelError(
            f"{type(module).__name__} asks for attention with {', '.join(changed) or 'a mask'}, "
            "which the packed engine does not compute. Please report this architecture."
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    attention: Attention = extra["cream_attention"]
    return attention.attend(module.layer_idx, query, key, value, scale)[None], None


AttentionInterface.register(_ATTENTION_NAME, _attention_function)
