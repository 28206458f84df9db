"""A causal language model seen as three things: tokens to hidden states, attention, and a head.

The engines feed a packed stream of tokens without padding and supply the attention themselves, so
the layers of any Hugging Face model that calls an exchangeable attention function run unchanged on
exactly the tokens that matter; a Llama-shaped model runs in its fused form
(`cream.models.fused_decoder`) instead. This module holds that seam; it knows nothing of sampling or
scoring. Whether a model fits it is tried in `cream.engines.trial`; what does not goes to
`cream.engines.plain`.

Seam: transformers' `AttentionInterface` (keyword arguments of the model's forward reach the
attention function; an attention name without a mask function makes the model build no mask).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

from cream.errors import ModelError
from cream.models.fused_decoder import Attention, fused_decoder

_ATTENTION_NAME = "cream_packed"
_FORMULA_ARGUMENTS = ("softcap", "s_aux", "position_bias", "head_mask")
"""Arguments of an attention function that change its formula; none of them is implemented here."""


class Backbone:
    """Runs a model's layers on a packed stream of tokens under a given `Attention`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.device: torch.device = model.get_input_embeddings().weight.device
        self.num_layers: int = model.config.get_text_config().num_hidden_layers
        self.head: Any = model.get_output_embeddings()
        self._fused = fused_decoder(model)
        self.fused: bool = self._fused is not None
        """Whether the layers run in their fused form."""
        self._logits: Tensor | None = None

    def hidden(
        self,
        token_ids: Int64[Tensor, " token"],
        positions: Int64[Tensor, " token"],
        attention: Attention,
    ) -> Float[Tensor, "token hidden"]:
        """Final hidden states of a packed stream."""
        if self._fused is not None:
            embedded = F.embedding(token_ids, self._fused.embedding)
            return self._fused.hidden(embedded, positions, attention)
        with _own_attention(self.model.config):
            output = self.model.base_model(
                input_ids=token_ids[None],
                position_ids=positions[None],
                use_cache=False,
                cream_attention=attention,
            )
        return output.last_hidden_state[0]

    def logits(self, hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row vocab"]:
        """Logits in the model's own dtype; the next call overwrites them.

        One buffer serves all calls: a fresh one of this size comes from the system page by page,
        which on a CPU costs more than the product itself.
        """
        if type(self.head) is not nn.Linear or self.head.bias is not None:
            return self.head(hidden)
        rows, weight = len(hidden), self.head.weight
        if self._logits is None or len(self._logits) < rows:
            self._logits = hidden.new_empty(rows, len(weight))
        return torch.mm(hidden, weight.T, out=self._logits[:rows])


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
