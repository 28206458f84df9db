"""A Llama-shaped model run on a packed stream of tokens with fused projections and few passes.

`FusedDecoder` computes what the layers of a Hugging Face model compute, from the same weights:
query, key and value in one product, gate and up in one, residuals added inside the products, the
elementwise parts as in `cream.models.layer_ops`, attention supplied by the caller. The weights stay
the model's: its parameters become views into the fused ones, so nothing is stored twice.

No list of architectures is kept. A model fits if its layers are built of the parts named below and
if a trial on the model itself gives the same hidden states; every other model goes through its own
forward (`cream.models.hidden`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from cream.algorithms.objective import LayerHook
from cream.models.layer_ops import rms_norm, rotate, swiglu
from cream.models.padded_attention import PaddedAttention, RowMask
from cream.models.positions import fast_reach
from cream.models.precision import in_float32

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.02}
"""Largest relative difference of the trial's hidden states; float32 decides where more is found.

In bfloat16 the 30 layers of the embedded model differ by 0.02 from rounding alone, fine-tuned ones
by more than 0.1; rotary positions left out in every fourth layer differ by 0.22, an output scaled
by 0.9 in every layer by 0.12.
"""
_ATTENTION_PARTS = {"q_proj", "k_proj", "v_proj", "o_proj"}
_HEAD_NORMS = {"q_norm", "k_norm"}
_MLP_PARTS = {"gate_proj", "up_proj", "down_proj"}


@runtime_checkable
class Attention(Protocol):
    """Attention over a packed stream: knows which token may see which."""

    def attend(
        self,
        layer: int,
        query: Float[Tensor, "1 head token dim"],
        key: Float[Tensor, "1 kv_head token dim"],
        value: Float[Tensor, "1 kv_head token dim"],
        scale: float,
    ) -> Float[Tensor, "token head dim"]:
        """Return what every token gathers from the tokens it may see."""
        ...


Product = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], Tensor]
"""``(x, weight, bias, added)`` to ``x @ weight.T + bias + added`` (see `plain_product`)."""


@dataclass(slots=True)
class Layer:
    """Weights of one decoder layer; products are ``x @ weight.T + bias``."""

    qkv: Tensor
    qkv_bias: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    gate_up: Tensor
    down: Tensor
    input_norm: Tensor
    mlp_norm: Tensor
    query_norm: Tensor | None
    key_norm: Tensor | None


@dataclass(frozen=True, slots=True)
class Shape:
    """What the layers of a model have in common."""

    heads: int
    kv_heads: int
    head_dim: int
    attention_scale: float
    eps: float
    head_eps: float


class FusedDecoder:
    """The decoder of a Llama-shaped model: token ids to hidden states.

    Args:
        shape: Sizes and constants.
        layers: Weights, first layer first.
        final_norm: Weight of the norm after the last layer.
        embedding: ``(vocab, hidden)``.
        rotary: Module that gives cosines and sines for positions.
        product: How products with weights are made; a training brings its own.
        embed: ``(ids, embedding)`` to rows of it, likewise.
    """

    def __init__(
        self,
        shape: Shape,
        layers: Iterable[Layer],
        final_norm: Tensor,
        embedding: Tensor,
        rotary: nn.Module,
        product: Product | None = None,
        embed: Callable[[Tensor, Tensor], Tensor] = F.embedding,
    ) -> None:
        self.shape = shape
        self.layers = layers
        self.final_norm = final_norm
        self.embedding = embedding
        self.rotary: Any = rotary
        self.product = product or plain_product
        self.embed = embed

    def in_float32(self) -> FusedDecoder:
        """The same in float32, one layer's weights at a time: what a trial computes."""
        return FusedDecoder(
            self.shape,
            _Widened(self.layers),
            self.final_norm.float(),
            self.embedding,
            self.rotary,
            self.product,
            lambda ids, rows: self.embed(ids, rows).float(),
        )

    def hidden(
        self,
        token_ids: Int64[Tensor, " token"],
        positions: Int64[Tensor, " token"],
        attention: Attention,
        hook: LayerHook | None = None,
    ) -> Float[Tensor, "token hidden"]:
        """Final hidden states of a packed stream of tokens."""
        x, eps = self.embed(token_ids, self.embedding), self.shape.eps
        cos, sin = self.rotary(x[None], position_ids=positions[None])
        for index, layer in enumerate(self.layers):
            heads = self._attend(
                index, layer, rms_norm(x, layer.input_norm, eps), cos, sin, attention
            )
            x = self.product(heads, layer.out, layer.out_bias, x)
            gate_up = self.product(rms_norm(x, layer.mlp_norm, eps), layer.gate_up, None, None)
            x = self.product(swiglu(gate_up), layer.down, None, x)
            if hook is not None:
                x = hook(index, x)
                if not torch.is_grad_enabled():  # where the next layer would write into it
                    x = x.clone()
        return rms_norm(x, self.final_norm, eps)

    def _attend(
        self, index: int, layer: Layer, x: Tensor, cos: Tensor, sin: Tensor, attention: Attention
    ) -> Float[Tensor, "token head_dims"]:
        shape = self.shape
        projected = self.product(x, layer.qkv, layer.qkv_bias, None)
        projected = projected.unflatten(1, (-1, shape.head_dim))
        rotated, value = projected.split([shape.heads + shape.kv_heads, shape.kv_heads], 1)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = rotated.split([shape.heads, shape.kv_heads], 1)
            query = rms_norm(query.flatten(0, 1), layer.query_norm, shape.head_eps).view_as(query)
            key = rms_norm(key.flatten(0, 1), layer.key_norm, shape.head_eps).view_as(key)
            rotated = torch.cat([query, key], 1)
        rotated = rotate(rotated, cos[0], sin[0])
        query, key = rotated.split([shape.heads, shape.kv_heads], 1)
        gathered = attention.attend(
            index,
            query.transpose(0, 1)[None],
            key.transpose(0, 1)[None],
            value.transpose(0, 1)[None],
            shape.attention_scale,
        )
        return gathered.flatten(1)


@dataclass(frozen=True, slots=True)
class _Widened:
    """Layers in float32, each made when its turn comes."""

    layers: Iterable[Layer]

    def __iter__(self) -> Iterator[Layer]:
        for layer in self.layers:
            own = ((field.name, getattr(layer, field.name)) for field in fields(layer))
            yield replace(layer, **{name: x.float() for name, x in own if x is not None})


def fused_decoder(model: Any) -> FusedDecoder | None:
    """Fuse a model's weights if it has the shape and the trial agrees, else None.

    The fused form stands for the model on sequences of up to `fast_reach` tokens.

    Afterwards the model computes what it did, from parameters that are views into fused tensors.
    """
    base = getattr(model, "base_model", None)
    if base is None or not _has_the_shape(base) or fast_reach(model.config).tokens == 0:
        return None
    with torch.no_grad():
        decoder = _fuse(base)
        try:
            agrees = _trial(base, decoder)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
            # Foreign model code that takes other arguments says so in one of these ways.
            agrees = False
    return decoder if agrees else None


def plain_product(
    x: Float[Tensor, "token in_"],
    weight: Float[Tensor, "out in_"],
    bias: Float[Tensor, " out"] | None,
    added: Float[Tensor, "token out"] | None,
) -> Float[Tensor, "token out"]:
    """``x @ weight.T + bias + added``; without gradients the sum may take the place of `added`."""
    if added is None:
        return F.linear(x, weight, bias)
    if bias is not None:
        added = added + bias
    if torch.is_grad_enabled():
        return torch.addmm(added, x, weight.T)
    return added.addmm_(x, weight.T)


def _children(module: nn.Module) -> set[str]:
    return {name for name, _ in module.named_children()}


def _has_the_shape(base: Any) -> bool:
    """Whether a model is made of the parts that `FusedDecoder` knows, all of ordinary kinds."""
    if _children(base) != {"embed_tokens", "layers", "norm", "rotary_emb"}:
        return False
    return (
        type(base.embed_tokens) is nn.Embedding
        and _is_norm(base.norm)
        and all(_is_layer(x) for x in base.layers)
    )


def _is_norm(norm: Any) -> bool:
    """Whether a norm scales by a weight and nothing else (OLMo's has none, LayerNorm a bias)."""
    names = {name for name, _ in norm.named_parameters()}
    return names == {"weight"} and (hasattr(norm, "variance_epsilon") or hasattr(norm, "eps"))


def _is_layer(layer: Any) -> bool:
    if _children(layer) != {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}:
        return False
    attention, mlp = _children(layer.self_attn), _children(layer.mlp)
    linear = [getattr(layer.self_attn, n, None) for n in _ATTENTION_PARTS]
    linear += [getattr(layer.mlp, n, None) for n in _MLP_PARTS]
    return (
        attention in (_ATTENTION_PARTS, _ATTENTION_PARTS | _HEAD_NORMS)
        and mlp == _MLP_PARTS | {"act_fn"}
        and _is_norm(layer.input_layernorm)
        and _is_norm(layer.post_attention_layernorm)
        and all(type(part) is nn.Linear for part in linear)
        and all(part.bias is None for part in linear[len(_ATTENTION_PARTS) :] if part is not None)
        and len({p.dtype for p in layer.parameters()}) == 1
    )


def _eps(norm: Any) -> float:
    return getattr(norm, "variance_epsilon", None) or norm.eps


def _fuse(base: Any) -> FusedDecoder:
    first = base.layers[0].self_attn
    normed = hasattr(first, "q_norm")
    shape = Shape(
        heads=first.q_proj.out_features // first.head_dim,
        kv_heads=first.k_proj.out_features // first.head_dim,
        head_dim=first.head_dim,
        attention_scale=first.scaling,
        eps=_eps(base.norm),
        head_eps=_eps(first.q_norm) if normed else 0.0,
    )
    layers = [_fuse_layer(layer) for layer in base.layers]
    return FusedDecoder(shape, layers, base.norm.weight, base.embed_tokens.weight, base.rotary_emb)


def _fuse_layer(layer: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = [attention.q_proj, attention.k_proj, attention.v_proj]
    biased = qkv[0].bias is not None
    return Layer(
        qkv=_fused([part.weight for part in qkv]),
        qkv_bias=_fused([part.bias for part in qkv]) if biased else None,
        out=attention.o_proj.weight,
        out_bias=attention.o_proj.bias,
        gate_up=_fused([mlp.gate_proj.weight, mlp.up_proj.weight]),
        down=mlp.down_proj.weight,
        input_norm=layer.input_layernorm.weight,
        mlp_norm=layer.post_attention_layernorm.weight,
        query_norm=attention.q_norm.weight if hasattr(attention, "q_norm") else None,
        key_norm=attention.k_norm.weight if hasattr(attention, "k_norm") else None,
    )


def _fused(parameters: list[nn.Parameter]) -> Tensor:
    """Put parameters into one tensor and make them views of it."""
    fused = torch.cat([p.data for p in parameters])
    for parameter, part in zip(parameters, fused.split([len(p) for p in parameters]), strict=True):
        parameter.data = part
    return fused


def _trial(base: Any, decoder: FusedDecoder) -> bool:
    """Run a few tokens through the model and through its fused form."""
    device, dtype = decoder.embedding.device, decoder.embedding.dtype
    ids = torch.arange(1, 14, device=device) * 7919 % len(decoder.embedding)
    positions = torch.arange(len(ids), device=device)

    def agrees(decoder: FusedDecoder, dtype: torch.dtype) -> bool:
        truth = base(input_ids=ids[None], position_ids=positions[None], use_cache=False)
        truth = truth.last_hidden_state[0].double()
        alone = PaddedAttention(RowMask(torch.zeros_like(ids)[None]), None, dtype)
        answer = decoder.hidden(ids, positions, alone).double()
        return bool((answer - truth).norm() <= _TOLERANCE[dtype] * truth.norm())

    if agrees(decoder, dtype):
        return True
    with in_float32(base):
        return dtype != torch.float32 and agrees(decoder.in_float32(), torch.float32)
