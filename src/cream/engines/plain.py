"""The slow, obvious way: one prompt at a time through the model's own forward and cache.

For what cannot run packed (soft-capped logits, sequences longer than a window, state-space layers,
architectures that are not known, ...). It asks of a model only what every
causal language model has, so nothing here depends on an architecture; nothing here is fast.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cream.engines.batching import Say
from cream.engines.logsumexp import log_normalisers
from cream.engines.token_sampling import draw, seed_tensor, uniforms
from cream.engines.trial import agree, own_logits, shown, trial_ids
from cream.models.positions import company_reach
from cream.protocols import SamplingParams
from cream.types import FinishReason, SampledGroup, SampledTokens, SamplingRequest, ScoringRequest


class PlainSampler:
    """Samples with the model's own forward, one prompt at a time: equal lengths, no padding.

    The model's cache is used where a trial shows that it gives what the whole sequence gives, and
    where rotary frequencies do not change as a sequence grows (what is cached would keep the old
    ones). Elsewhere every token costs a forward over all tokens before it.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._device: torch.device = next(chain(model.parameters(), model.buffers())).device
        self._cacheable = company_reach(model.config)
        self._cache_name = next(
            (
                name
                for name in _caches(model)
                if shown(model, lambda n=name: _cache_agrees(model, n))
            ),
            None,
        )

    def sample(self, request: SamplingRequest, params: SamplingParams) -> SampledGroup:
        """Sample all completions of one prompt."""
        rows = len(request.seeds)
        seeds = seed_tensor(request.seeds).to(self._device)
        stops = torch.tensor(params.stop_ids, dtype=torch.int64, device=self._device)
        prompt = torch.tensor(request.prompt_token_ids, dtype=torch.int64, device=self._device)
        ids = prompt.expand(rows, -1)
        longest = len(request.prompt_token_ids) + params.max_completion_tokens
        name = self._cache_name if self._cacheable.holds(longest) else None
        output = _forward(self._model, ids, name, None)
        tokens, logps = [], []
        done = torch.zeros(rows, dtype=torch.bool, device=self._device)
        every_row = torch.arange(rows, device=self._device)
        for step in range(params.max_completion_tokens):
            numbers = uniforms(seeds, torch.full_like(seeds, step))
            drawn, drawn_logps = draw(output.logits[:, -1], every_row, numbers, params)
            tokens.append(drawn)
            logps.append(drawn_logps)
            done |= torch.isin(drawn, stops)
            if bool(done.all()) or step + 1 == params.max_completion_tokens:
                break
            ids = torch.cat([ids, drawn[:, None]], 1)
            output = _forward(self._model, ids, name, output)
        return _cut(request, torch.stack(tokens, 1), torch.stack(logps, 1), params)


def _forward(model: Any, ids: Int64[Tensor, "row token"], cache_name: str | None, last: Any) -> Any:
    """The next output: of all tokens without a cache, of the newest with the one of `last`."""
    if cache_name is None:
        return model(input_ids=ids, use_cache=False)
    if last is None:
        return model(input_ids=ids, use_cache=True)
    return model(input_ids=ids[:, -1:], use_cache=True, **{cache_name: last[cache_name]})


def _caches(model: Any) -> list[str]:
    """Names under which the model may give and take its cache."""
    names = inspect.signature(model.forward).parameters
    return [name for name in ("past_key_values", "cache_params", "state", "cache") if name in names]


def _cache_agrees(model: Any, name: str) -> bool:
    """Two equal rows, several tokens one at a time, against the whole sequence at once."""
    ids = trial_ids(model, 12)
    device = next(model.parameters()).device
    rows = torch.tensor([ids, ids], device=device)
    with torch.inference_mode():
        truth = own_logits(model, ids)
        output = _forward(model, rows[:, :6], name, None)
        lines = [output.logits[1, -1]]
        for end in range(7, 13):
            output = _forward(model, rows[:, :end], name, output)
            lines.append(output.logits[1, -1])
    return agree(truth[5:], torch.stack(lines), truth.dtype)


def told_once(say: Say | None, done: str, reason: str) -> Callable[[], None]:
    """What tells the user at its first call that sequences take the slow path, and why."""
    left = [] if say is None else [say]

    def tell() -> None:
        if left:
            left.pop()(
                f"{done} by the model's own forward, one prompt at a time, which is many times "
                f"slower: {reason}"
            )

    return tell


def score_plainly(
    model: Any,
    request: ScoringRequest,
    tile_rows: int,
    reading: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> list[Float32[Tensor, " token"]]:
    """What is read off the logits at each completion's tokens, one forward per completion."""
    device = next(chain(model.parameters(), model.buffers())).device
    first = len(request.prompt_token_ids) - 1
    scored = []
    for completion in request.completions:
        ids = torch.tensor(
            [*request.prompt_token_ids, *completion], dtype=torch.int64, device=device
        )
        logits = model(input_ids=ids[None], use_cache=False).logits[0, first:-1]
        tiles = zip(logits.split(tile_rows), ids[first + 1 :].split(tile_rows), strict=True)
        every_row = torch.arange(tile_rows, device=device)
        parts = [reading(part, every_row[: len(part)], targets) for part, targets in tiles]
        scored.append(torch.cat(parts))
    return scored


def target_logps(
    logits: Float[Tensor, "row vocab"],
    rows: Int64[Tensor, " judged"],
    targets: Int64[Tensor, " judged"],
) -> Float32[Tensor, " judged"]:
    """Log-probability of each target in its row: float32 log-sum-exp whatever the logits' dtype."""
    return logits[rows, targets].float() - log_normalisers(logits)[rows]


def _cut(
    request: SamplingRequest,
    tokens: Int64[Tensor, "row step"],
    logps: Float[Tensor, "row step"],
    params: SamplingParams,
) -> SampledGroup:
    """End every row after its first stop token."""
    completions = []
    for seed, ids, row_logps in zip(request.seeds, tokens.tolist(), logps, strict=True):
        ends = [i + 1 for i, token in enumerate(ids) if token in params.stop_ids]
        length = ends[0] if ends else len(ids)
        reason = FinishReason.STOP if ends else FinishReason.LENGTH
        total = float(row_logps[:length].double().sum())
        completions.append(SampledTokens(tuple(ids[:length]), reason, seed, total))
    return SampledGroup(request.prompt_id, tuple(completions))
