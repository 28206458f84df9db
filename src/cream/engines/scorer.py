"""Log-probabilities of given completions: each prompt once, the head only where a token is judged.

A batch is one packed stream of prompts and their distinct completions (without last tokens, which
predict nothing); hidden states become logits a tile of rows at a time, so memory never holds
``(batch, token, vocab)``. Inference only: the differentiable head is in `cream.algorithms.logps`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cream.algorithms.objective import LayerHook
from cream.engines.attention import PackedAttention, packed
from cream.engines.batching import (
    Say,
    check_length,
    no_room,
    out_of_memory,
    require_finite,
    windows,
)
from cream.engines.plain import score_plainly, target_logps, told_once
from cream.engines.trial import fast_form
from cream.kernels.library import fit
from cream.models.devices import give_memory_back
from cream.models.fused_decoder import Attention
from cream.models.hidden import Backbone, hooked, require_inference_model
from cream.models.padded_attention import PADDING, PROMPT, PaddedAttention, RowMask
from cream.models.positions import Reach, context_length
from cream.types import ScoredGroup, ScoringRequest

Reading = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A tile of logits, the row of each value, the token judged there: to a float32 value each."""

WINDOW_ROWS = 8192
"""Completions that are sorted by length at a time."""
TILE_ROWS = 1024
"""Rows of logits that exist at a time."""
SHORT_ROW = 128
"""Tokens of a prompt with its completions up to which plain products beat the fused call."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A prompt and as many of its distinct completions as go into one batch together."""

    index: int
    """Which request of the window it belongs to."""
    request: ScoringRequest
    completions: tuple[tuple[int, ...], ...]

    @property
    def tokens(self) -> int:
        """Tokens in the stream."""
        return len(self.request.prompt_token_ids) + sum(len(c) - 1 for c in self.completions)


class TorchScorer:
    """A `LogpScorer` on a Hugging Face causal language model.

    Args:
        model: Causal language model in eval mode, float32 or bfloat16, on one device.
        token_budget: Tokens per forward; a single longer sequence is its own batch.
        tile_rows: Rows of logits that exist at a time.
        window_rows: Completions that are sorted by length at a time.
        hook: What stands behind every decoder layer, or None.
        say: Told when memory does not hold the token budget, which is halved for good then, and
            once when sequences take the slow path.
        reading: What is read off the logits at every token; without it, log-probabilities.

    Raises:
        ModelError: The model is in training mode.
    """

    def __init__(
        self,
        model: Any,
        *,
        token_budget: int = 4096,
        tile_rows: int = TILE_ROWS,
        window_rows: int = WINDOW_ROWS,
        hook: LayerHook | None = None,
        say: Say | None = None,
        reading: Reading | None = None,
    ) -> None:
        require_inference_model(model)
        self._model = model
        self._hook = hook
        self._token_budget = token_budget
        self._tile_rows = tile_rows
        self._window_rows = window_rows
        self._say = say
        self._reading = reading or target_logps
        self._context_length = context_length(model.config)

    @cached_property
    def _fast(self) -> tuple[Backbone | None, Reach]:
        return fast_form(self._model, self._hook)

    @property
    def plain_reason(self) -> str:
        """Why (some) sequences take the slow path; empty if none do."""
        return self._fast[1].reason

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoredGroup]:
        """Yield the token log-probabilities of each request, window by window.

        Raises:
            ValueError: A prompt or completion without tokens.
            ModelError: A sequence that the model has no positions for.
            NotFiniteError: Logits are NaN or infinite.
        """
        for window in windows(requests, self._window_rows):
            for request in window:
                check_request(request, self._context_length)
            yield from finite(window, self._score_window(window))

    def _score_window(self, window: list[ScoringRequest]) -> Iterator[ScoredGroup]:
        yield from self._score_packed([r for r in window if self._fits(r)])
        for request in window:
            if not self._fits(request):
                self._tell_plain()
                yield self._score_plainly(request)

    @cached_property
    def _tell_plain(self) -> Callable[[], None]:
        return told_once(self._say, "scored", self.plain_reason)

    def _fits(self, request: ScoringRequest) -> bool:
        backbone, reach = self._fast
        return backbone is not None and reach.holds(longest(request))

    def _score_plainly(self, request: ScoringRequest) -> ScoredGroup:
        with torch.inference_mode(), hooked(self._model, self._hook):
            scored = score_plainly(self._model, request, self._tile_rows, self._reading)
        return ScoredGroup(request.prompt_id, tuple(logps.cpu().numpy() for logps in scored))

    def _score_packed(self, requests: list[ScoringRequest]) -> Iterator[ScoredGroup]:
        """Score batch by batch; a request is yielded once all its units are in."""
        collected = Collected(requests)
        pending = deque(batches(units_of(requests, self._token_budget), self._token_budget))
        while pending:
            batch = pending.popleft()
            scored = self._score_if_held(batch)
            if scored is None:
                left = [unit for part in (batch, *pending) for unit in part]
                pending = deque(batches(left, self._token_budget))
                continue
            yield from collected.add(batch, scored)
        yield from collected.empty()

    def _score_if_held(self, batch: list[Unit]) -> Float32[Tensor, " judged"] | None:
        """Values of a batch; None, and the budget halved, if memory does not hold it."""
        backbone = self._fast[0]
        assert backbone is not None  # else nothing fits
        try:
            with torch.inference_mode():
                return batch_values(backbone, batch, self._tile_rows, self._reading)
        except (MemoryError, RuntimeError) as error:
            problem = out_of_memory(error)
            if len(batch) == 1:
                raise no_room(batch[0].request.prompt_id, problem) from error
        give_memory_back(backbone.device)
        self._token_budget = max(self._token_budget // 2, 1)
        if self._say is not None:
            self._say(
                f"out of memory while scoring ({problem}); goes on with {self._token_budget} "
                "tokens a batch, which gives the same up to rounding"
            )
        return None


def check_request(request: ScoringRequest, context_length: int | None) -> None:
    """Refuse what cannot be scored.

    Raises:
        ValueError: A completion without tokens.
        ModelError: A sequence that the model has no positions for.
    """
    if any(not completion for completion in request.completions):
        raise ValueError(f"prompt {request.prompt_id}: a completion has no tokens to score")
    check_length(request.prompt_id, longest(request), context_length)


def finite(
    requests: Sequence[ScoringRequest], groups: Iterable[ScoredGroup]
) -> Iterator[ScoredGroup]:
    """The groups of requests, as long as every sum is a number.

    Raises:
        NotFiniteError: One is not.
    """
    asked = {request.prompt_id: request for request in requests}
    for group in groups:
        request = asked[group.prompt_id]
        sums = [float(logps.sum()) for logps in group.token_logps]
        require_finite(request, sums, request.completions)
        yield group


def longest(request: ScoringRequest) -> int:
    """Tokens of the prompt with its longest completion."""
    return len(request.prompt_token_ids) + max(map(len, request.completions), default=0)


def units_of(requests: Sequence[ScoringRequest], token_budget: int) -> list[Unit]:
    """Requests as units, in the order in which they are batched."""
    units = [
        Unit(index, request, completions)
        for index, request in enumerate(requests)
        for completions in _split_completions(request, token_budget)
    ]
    return sorted(units, key=lambda u: (len(u.request.prompt_token_ids), u.tokens), reverse=True)


class Collected:
    """What is known of requests; a group is whole once all its units are in."""

    def __init__(self, requests: Sequence[ScoringRequest]) -> None:
        self._requests = requests
        self._known: list[dict[tuple[int, ...], np.ndarray]] = [{} for _ in requests]

    def add(
        self, batch: Sequence[Unit], values: Float32[Tensor, " judged"]
    ) -> Iterator[ScoredGroup]:
        """Take the values of a batch, and yield the groups that are whole now."""
        completions = [unit.completions for unit in batch]
        for unit, arrays in zip(batch, _split(values.cpu().numpy(), completions), strict=True):
            by_ids = self._known[unit.index]
            by_ids.update(zip(unit.completions, arrays, strict=True))
            if len(by_ids) == len(set(unit.request.completions)):
                logps = tuple(by_ids[ids] for ids in unit.request.completions)
                yield ScoredGroup(unit.request.prompt_id, logps)
                self._known[unit.index] = {}

    def empty(self) -> Iterator[ScoredGroup]:
        """Groups without completions, of which no unit speaks."""
        for request in self._requests:
            if not request.completions:
                yield ScoredGroup(request.prompt_id, ())


def _split_completions(
    request: ScoringRequest, token_budget: int
) -> Iterator[tuple[tuple[int, ...], ...]]:
    """Split a request that is larger than a batch; duplicates are scored once."""
    taken: list[tuple[int, ...]] = []
    tokens = len(request.prompt_token_ids)
    for completion in sorted(set(request.completions), key=len):
        if taken and tokens + len(completion) - 1 > token_budget:
            yield tuple(taken)
            taken, tokens = [], len(request.prompt_token_ids)
        taken.append(completion)
        tokens += len(completion) - 1
    if taken:
        yield tuple(taken)


def batches(units: Sequence[Unit], token_budget: int) -> Iterator[list[Unit]]:
    """Cut a sorted list of units into batches of at most ``token_budget`` tokens."""
    batch: list[Unit] = []
    tokens = 0
    for unit in units:
        if batch and tokens + unit.tokens > token_budget:
            yield batch
            batch, tokens = [], 0
        batch.append(unit)
        tokens += unit.tokens
    if batch:
        yield batch


def batch_values(
    backbone: Backbone, batch: Sequence[Unit], tile_rows: int, reading: Reading
) -> Float32[Tensor, " judged"]:
    """What is read at all first tokens of a batch, then at all later tokens, in its order."""
    prompts = [unit.request.prompt_token_ids for unit in batch]
    completions = [unit.completions for unit in batch]
    fed = [[c[:-1] for c in group if len(c) > 1] for group in completions]
    ids, positions = packed(prompts, fed)
    lengths = [[len(tokens) for tokens in group] for group in fed]
    attention = _attention([len(p) for p in prompts], lengths, backbone)
    stream = torch.tensor([ids, positions], dtype=torch.int64, device=backbone.device)
    hidden = backbone.hidden(stream[0], stream[1], attention)
    return _head_values(backbone, hidden, batch, tile_rows, reading)


def _attention(prompts: list[int], completions: list[list[int]], backbone: Backbone) -> Attention:
    """Plain products where all rows are short and no kernel fits, else each part on its own."""
    device = backbone.device
    widest = max(n + sum(own) for n, own in zip(prompts, completions, strict=True))
    if widest > SHORT_ROW or fit(backbone.model.get_input_embeddings().weight):
        return PackedAttention(prompts, completions, device)
    rows, segments = [], []
    prompt_start, start = 0, sum(prompts)
    for prompt, own in zip(prompts, completions, strict=True):
        inner = range(start, start + sum(own))
        rows.append([*range(prompt_start, prompt_start + prompt), *inner])
        segments.append([PROMPT] * prompt + [k for k, n in enumerate(own, 1) for _ in range(n)])
        prompt_start, start = prompt_start + prompt, inner.stop
    return PaddedAttention(
        RowMask(_padded(segments, PADDING, device)), _padded(rows, 0, device), torch.float32
    )


def _padded(rows: list[list[int]], filler: int, device: torch.device) -> Int64[Tensor, "row width"]:
    width = max(map(len, rows))
    return torch.tensor([[*row, *[filler] * (width - len(row))] for row in rows], device=device)


def _head_values(
    backbone: Backbone,
    hidden: Float[Tensor, "token hidden"],
    batch: Sequence[Unit],
    tile_rows: int,
    reading: Reading,
) -> Float32[Tensor, " judged"]:
    """What is read at all first tokens, then at all later tokens, in the order of the batch.

    The last prompt token predicts the first token of all its completions: one row of logits,
    several targets. Every later row has one.
    """
    device = hidden.device
    ends = torch.tensor(
        [len(unit.request.prompt_token_ids) for unit in batch], device=device
    ).cumsum(0)
    rows = torch.cat([hidden[ends - 1], hidden[int(ends[-1]) :]])
    completions = [(g, c) for g, unit in enumerate(batch) for c in unit.completions]
    first = [g for g, _ in completions]
    source = torch.tensor(first + list(range(len(batch), len(rows))), device=device)
    targets = [c[0] for _, c in completions] + [token for _, c in completions for token in c[1:]]
    target = torch.tensor(targets, dtype=torch.int64, device=device)
    parts = []
    for start in range(0, len(rows), tile_rows):
        logits = backbone.logits(rows[start : start + tile_rows])
        edges = torch.tensor([start, start + len(logits)], device=device)
        low, high = torch.searchsorted(source, edges).tolist()
        parts.append(reading(logits, source[low:high] - start, target[low:high]))
    return torch.cat(parts)


def _split(
    logps: Float32[np.ndarray, " judged"], completions: list[tuple[tuple[int, ...], ...]]
) -> list[list[Float32[np.ndarray, " token"]]]:
    """Undo the order of `_head_values`: one array per completion."""
    later = sum(map(len, completions))
    first = 0
    result = []
    for group in completions:
        arrays = []
        for completion in group:
            rest = logps[later : later + len(completion) - 1]
            arrays.append(np.concatenate([logps[first : first + 1], rest]))
            first += 1
            later += len(rest)
        result.append(arrays)
    return result
