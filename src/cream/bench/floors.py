"""What the machine allows: rates of its matrix products and copies, and the work of a model.

A share of the floor is the least time the work could take, by the formulas below, over the time it
took. The work is the least that gives the result, with every prompt computed once; softmax, norms
and the optimiser's arithmetic are not counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import linear

FORMULA = (
    "forward FLOPs = 2 x (weights of the blocks) per token + 4 x layers x heads x head size per "
    "(token, token attended to) + 2 x hidden size x vocabulary per row of logits; training 3 x "
    "that; prompts once. Scoring and training: FLOPs / best matrix-product rate. Sampling: prefill "
    "likewise, then per decoding step the longer of FLOPs / rate and bytes of weights and cache / "
    "read rate, the read rate being twice the copy rate."
)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """The sizes of a Llama-like model that its work depends on."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int

    @property
    def block_weights(self) -> int:
        """Weights of all blocks' matrices: queries, keys, values, output, gate, up, down."""
        attention = self.hidden * self.head_size * (2 * self.heads + 2 * self.key_value_heads)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)

    @property
    def head_weights(self) -> int:
        """Weights of the matrix from hidden states to logits."""
        return self.hidden * self.vocabulary

    def cache_bytes(self, bytes_per_number: int) -> int:
        """Keys and values of one token."""
        return 2 * self.layers * self.key_value_heads * self.head_size * bytes_per_number

    def forward_flops(self, tokens: int, attended: int, logit_rows: int) -> int:
        """FLOPs of a forward pass.

        Args:
            tokens: Tokens that go through the blocks.
            attended: Pairs of a token and a token it attends to, itself included.
            logit_rows: Rows of logits.
        """
        blocks = 2 * self.block_weights * tokens
        attention = 4 * self.layers * self.heads * self.head_size * attended
        return blocks + attention + 2 * self.head_weights * logit_rows


def model_shape(config: Any) -> ModelShape:
    """Read the sizes from a transformers configuration of a Llama-like model."""
    text = config.get_text_config()
    heads = text.num_attention_heads
    return ModelShape(
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        layers=text.num_hidden_layers,
        heads=heads,
        key_value_heads=text.num_key_value_heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
    )


@dataclass(frozen=True, slots=True)
class Group:
    """Lengths of a prompt and of the completions that follow it."""

    prompt: int
    completions: tuple[int, ...]


def group_flops(shape: ModelShape, groups: Sequence[Group]) -> int:
    """FLOPs of one forward pass over prompts and completions, each prompt once.

    The last token of a completion predicts nothing, so it is not fed; the first token of all
    completions of a prompt is predicted by one row of logits.
    """
    tokens = attended = rows = 0
    for group in groups:
        tokens += group.prompt
        attended += _triangle(group.prompt)
        rows += 1
        for length in group.completions:
            fed = length - 1
            tokens += fed
            attended += fed * group.prompt + _triangle(fed)
            rows += fed
    return shape.forward_flops(tokens, attended, rows)


def _triangle(length: int) -> int:
    return length * (length + 1) // 2


@dataclass(frozen=True, slots=True)
class Product:
    """A measured matrix product of shapes (rows, inner) and (inner, columns)."""

    dtype: str
    rows: int
    inner: int
    columns: int
    flops_per_second: float


@dataclass(frozen=True, slots=True)
class Floor:
    """Measured rates of this machine."""

    products: tuple[Product, ...]
    copy_bytes_per_second: float
    """Bytes of one buffer written to another, per second; reads and writes twice as many."""

    def rate(self, dtype: str) -> float:
        """The best matrix-product rate of a dtype, FLOP/s."""
        return max(p.flops_per_second for p in self.products if p.dtype == dtype)


def measure_floor(shape: ModelShape, device: torch.device, *, seconds: float = 0.2) -> Floor:
    """Measure the matrix products of a model and a large copy, each for `seconds`.

    The best repetition counts: a floor is what the machine can do, not what it does on average.
    """
    sizes = [
        (4096, shape.hidden, shape.intermediate),
        (4096, shape.intermediate, shape.hidden),
        (4096, shape.hidden, shape.heads * shape.head_size),
        (1024, shape.hidden, shape.vocabulary),
        (256, shape.hidden, shape.intermediate),
        (2048, 2048, 2048),
    ]
    products = []
    for dtype in (torch.bfloat16, torch.float32):
        for rows, inner, columns in sizes:
            left = torch.randn(rows, inner, device=device, dtype=dtype)
            right = torch.randn(columns, inner, device=device, dtype=dtype)
            best = _fastest(lambda a=left, b=right: linear(a, b), device, seconds)
            rate = 2 * rows * inner * columns / best
            name = str(dtype).removeprefix("torch.")
            products.append(Product(name, rows, inner, columns, rate))
    source = torch.zeros(1 << 26, dtype=torch.int32, device=device)  # 256 MiB, beyond any cache
    target = torch.empty_like(source)
    best = _fastest(lambda: target.copy_(source), device, seconds)
    return Floor(tuple(products), source.nbytes / best)


def _fastest(work: Callable[[], object], device: torch.device, seconds: float) -> float:
    best = float("inf")
    work()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        best = min(best, time.perf_counter() - started)
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def forward_seconds(shape: ModelShape, floor: Floor, groups: Sequence[Group], dtype: str) -> float:
    """Least time to score given completions."""
    return group_flops(shape, groups) / floor.rate(dtype)


def training_seconds(shape: ModelShape, floor: Floor, groups: Sequence[Group], dtype: str) -> float:
    """Least time of forward and backward: the backward pass has two products for each one."""
    return 3 * forward_seconds(shape, floor, groups, dtype)


def sampling_seconds(
    shape: ModelShape, floor: Floor, groups: Sequence[Group], dtype: str, bytes_per_number: int
) -> float:
    """Least time to sample completions of these lengths, all of them decoded together.

    Every step reads the weights and the caches of what still runs, a prompt's once.
    """
    prompts = [Group(group.prompt, ()) for group in groups]
    seconds = forward_seconds(shape, floor, prompts, dtype)
    weight_bytes = (shape.block_weights + shape.head_weights) * bytes_per_number
    longest = max((n for group in groups for n in group.completions), default=0)
    for step in range(1, longest):
        running = [(g.prompt, sum(n > step for n in g.completions)) for g in groups]
        rows = sum(count for _, count in running)
        attended = sum(count * (prompt + step) for prompt, count in running)
        cached = sum(prompt + count * step for prompt, count in running if count)
        compute = shape.forward_flops(rows, attended, rows) / floor.rate(dtype)
        moved = weight_bytes + cached * shape.cache_bytes(bytes_per_number)
        seconds += max(compute, moved / (2 * floor.copy_bytes_per_second))
    return seconds
