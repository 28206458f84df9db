"""Training a Llama-shaped model on packed tokens, with gradients added straight to the masters.

`FusedTraining` is what computes: fused weights in the compute dtype (`cream.models.fused_decoder`),
no padding outside attention, the head on completion tokens only. The gradients of the fused weights
are added to float32 buffers of which the master parameters' ``.grad`` are views; those of embedding
and head, whose tables are large and whose tokens are few, are added there without ever existing in
between. Same gradients as the model's own forward and backward (tested); which models fit is
decided by `cream.models.fused_decoder.fused_decoder`.
"""

from __future__ import annotations

from dataclasses import fields, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from cream.algorithms.logps import logps_from_hidden
from cream.algorithms.objective import LayerHook
from cream.kernels.attention import SegmentAttention
from cream.kernels.layer_ops import add_transposed_product
from cream.kernels.library import fit
from cream.models.fused_decoder import FusedDecoder, Layer
from cream.models.padded_attention import PADDING, PROMPT, PaddedAttention
from cream.training.batches import TokenBatch


class FusedTraining:
    """The computing side of a training: leaves in the compute dtype, gradients in float32.

    Args:
        model: Float32 causal language model whose weights `decoder` has fused.
        decoder: Its fused form; every parameter of the model requires a gradient.
        dtype: Dtype of forward and backward.
    """

    def __init__(self, model: Any, decoder: FusedDecoder, dtype: torch.dtype) -> None:
        head = model.get_output_embeddings().weight
        self._fused: list[Tensor] = []
        self._leaves: list[Tensor] = []
        self._gradients: list[Tensor] = []
        self._gradient_of: dict[int, Tensor] = {}
        self._dtype = dtype
        self._embedding, self._embedding_gradient = self._table(decoder.embedding)
        self._head, self._head_gradient = self._embedding, self._embedding_gradient
        if head.data_ptr() != decoder.embedding.data_ptr():
            self._head, self._head_gradient = self._table(head)
        layers = [
            replace(layer, **{name: self._leaf(weight) for name, weight in _weights(layer)})
            for layer in decoder.layers
        ]
        self._decoder = FusedDecoder(
            decoder.shape,
            layers,
            self._leaf(decoder.final_norm),
            self._embedding,
            decoder.rotary,
            self._product,
            self._embed,
        )
        self._give_gradients(model)

    def forward(
        self, batch: TokenBatch, hook: LayerHook | None = None
    ) -> tuple[Float[Tensor, " target"], Float[Tensor, "state hidden"] | None]:
        """Log-probability of every target and hidden states at the places asked for."""
        real = batch.segments != PADDING
        attention = (
            _stream_attention(batch.segments)
            if fit(self._embedding) and batch.row_mask.explicit is None
            else PaddedAttention(batch.row_mask, None, self._dtype)
        )
        hidden = self._decoder.hidden(
            batch.input_ids[real], batch.position_ids[real], attention, hook
        )
        stream = (real.flatten().cumsum(0) - 1).view_as(real)
        predictors = stream[batch.target_rows, batch.target_positions]
        logps = logps_from_hidden(
            hidden[predictors],
            self._head,
            batch.targets,
            add_weight_gradient=partial(_add_to_head, self._head_gradient),
        )
        if not len(batch.state_rows):
            return logps, None
        return logps, hidden[stream[batch.state_rows, batch.state_positions]]

    def publish(self) -> None:
        """Round the masters into the leaves."""
        if self._dtype != torch.float32:
            with torch.no_grad():
                torch._foreach_copy_(self._leaves, self._fused)

    def clear_gradients(self) -> None:
        """Set all gradients to zero; their memory stays, the masters look into it."""
        for gradient in self._gradients:
            gradient.zero_()

    def _embed(self, token_ids: Tensor, embedding: Tensor) -> Tensor:
        """Rows of the embedding, whose gradient is added where it belongs."""
        embedded: Any = _Embedded.apply(embedding, token_ids, self._embedding_gradient)
        return embedded

    def _product(
        self, x: Tensor, weight: Tensor, bias: Tensor | None, added: Tensor | None
    ) -> Tensor:
        """``x @ weight.T + bias + added``, the weight's gradient added where it belongs."""
        product: Any = _Product.apply(x, weight, added, self._gradient_of[id(weight)])
        return product if bias is None else product + bias

    def _leaf(self, weight: Tensor) -> Tensor:
        """A leaf with the values of a fused weight, whose gradient goes to a float32 buffer.

        Products add the gradients of matrices there themselves; those of vectors come by autograd.
        """
        leaf, gradient = self._table(weight)
        if weight.ndim > 1:
            return leaf
        if self._dtype == torch.float32:
            leaf.grad = gradient
        else:

            def add(computing: Tensor) -> None:
                assert computing.grad is not None
                gradient.add_(computing.grad)
                computing.grad = None

            leaf.register_post_accumulate_grad_hook(add)
        return leaf

    def _table(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """A leaf whose gradient is added to the buffer by whoever uses it."""
        fused = weight.detach()
        leaf = fused.to(self._dtype) if self._dtype != torch.float32 else fused.view_as(fused)
        self._fused.append(fused)
        self._leaves.append(leaf.requires_grad_())
        self._gradients.append(torch.zeros_like(fused))
        self._gradient_of[id(self._leaves[-1])] = self._gradients[-1]
        return self._leaves[-1], self._gradients[-1]

    def _give_gradients(self, model: Any) -> None:
        """Make every parameter's ``.grad`` a view into the buffer of the tensor it is a part of."""
        for parameter in model.parameters():
            fused, gradient = next(
                (fused, gradient)
                for fused, gradient in zip(self._fused, self._gradients, strict=True)
                if 0 <= parameter.data_ptr() - fused.data_ptr() < fused.nbytes
            )
            offset = (parameter.data_ptr() - fused.data_ptr()) // fused.element_size()
            parameter.grad = gradient.as_strided(parameter.shape, parameter.stride(), offset)


def _stream_attention(rows: Int64[Tensor, "row width"]) -> SegmentAttention:
    """Attention of rows laid one after another, as a kernel."""
    segments: list[tuple[int, int, int]] = []
    start = 0
    for row in rows.tolist():
        prompt = len(segments)
        for kind, places in groupby(row):
            length = len(list(places))
            if kind != PADDING:
                segments.append((start, length, -1 if kind == PROMPT else prompt))
                start += length
    return SegmentAttention(segments)


def fits(model: nn.Module) -> bool:
    """Whether all of a model is trained and its head is a plain product."""
    head: Any = getattr(model, "get_output_embeddings", lambda: None)()
    return (
        type(head) is nn.Linear
        and head.bias is None
        and all(parameter.requires_grad for parameter in model.parameters())
    )


def _weights(layer: Layer) -> list[tuple[str, Tensor]]:
    named = [(field.name, getattr(layer, field.name)) for field in fields(layer)]
    return [(name, weight) for name, weight in named if weight is not None]


class _Embedded(torch.autograd.Function):
    """Rows of the embedding; their gradients are added to the given buffer."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, ids: Int64[Tensor, " token"], gradient: Tensor) -> Tensor:
        ctx.ids, ctx.gradient = ids, gradient
        return F.embedding(ids, weight)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[None, None, None]:
        ctx.gradient.index_add_(0, ctx.ids, upstream[0].to(ctx.gradient.dtype))
        return None, None, None


class _Product(torch.autograd.Function):
    """``x @ weight.T + added``; the weight's gradient is added to the given buffer."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, added: Tensor | None, gradient: Tensor
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.gradient, ctx.adds = gradient, added is not None
        return x @ weight.T if added is None else torch.addmm(added, x, weight.T)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        _add_product(ctx.gradient, upstream[0], x)
        return upstream[0] @ weight, None, upstream[0] if ctx.adds else None, None


def _add_product(
    gradient: Float32[Tensor, "out in_"],
    a: Float[Tensor, "token out"],
    b: Float[Tensor, "token in_"],
) -> None:
    """``gradient += a.T @ b``."""
    if fit(a):
        add_transposed_product(a, b, gradient)
    else:
        gradient.add_(a.T @ b)


def _add_to_head(
    gradient: Float32[Tensor, "vocab hidden"],
    d_logits: Float[Tensor, "row vocab"],
    hidden: Float[Tensor, "row hidden"],
) -> None:
    """Likewise for few rows and a large table, where a product of its own would cost most."""
    if fit(d_logits):
        add_transposed_product(d_logits, hidden, gradient)
    else:
        gradient.addmm_(d_logits.to(gradient.dtype).T, hidden.to(gradient.dtype))
