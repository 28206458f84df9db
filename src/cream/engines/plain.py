"""The slow, obvious way: one prompt at a time through the model's own forward and cache.

For architectures that `cream.engines.backbone` cannot run packed (soft-capped logits, sliding
windows shorter than the sequence, state-space layers, ...). It asks of a model only what every
causal language model has, so nothing here depends on an architecture; nothing here is fast.
"""

from __future__ import annotations

import inspect
from itertools import chain
from typing import Any

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor

from cream.engines.drawing import draw, seed_tensor, uniforms
from cream.engines.normalising import log_normalisers
from cream.protocols import SamplingParams
from cream.types import FinishReason, SampledGroup, SampledTokens, SamplingRequest, ScoringRequest


def sample_plainly(model: Any, request: SamplingRequest, params: SamplingParams) -> SampledGroup:
    """Sample all completions of one prompt with a Hugging Face cache; equal lengths, no padding."""
    device = next(model.parameters()).device
    rows = len(request.seeds)
    seeds = seed_tensor(request.seeds).to(device)
    stops = torch.tensor(params.stop_ids, dtype=torch.int64, device=device)
    prompt = torch.tensor(request.prompt_ids, dtype=torch.int64, device=device)
    cache_name = _cache_argument(model)
    output = model(input_ids=prompt.expand(rows, -1), use_cache=True)
    tokens, logps = [], []
    done = torch.zeros(rows, dtype=torch.bool, device=device)
    every_row = torch.arange(rows, device=device)
    for step in range(params.max_completion_tokens):
        numbers = uniforms(seeds, torch.full_like(seeds, step))
        drawn, drawn_logps = draw(output.logits[:, -1], every_row, numbers, params)
        tokens.append(drawn)
        logps.append(drawn_logps)
        done |= torch.isin(drawn, stops)
        if bool(done.all()) or step + 1 == params.max_completion_tokens:
            break
        cache = {cache_name: getattr(output, cache_name)}
        output = model(input_ids=drawn[:, None], use_cache=True, **cache)
    return _cut(request, torch.stack(tokens, 1), torch.stack(logps, 1), params)


def score_plainly(
    model: Any, request: ScoringRequest, tile_rows: int
) -> list[Float32[Tensor, " token"]]:
    """Token log-probabilities of each completion, one forward per completion."""
    device = next(chain(model.parameters(), model.buffers())).device
    first = len(request.prompt_ids) - 1
    scored = []
    for completion in request.completions:
        ids = torch.tensor([*request.prompt_ids, *completion], dtype=torch.int64, device=device)
        logits = model(input_ids=ids[None], use_cache=False).logits[0, first:-1]
        tiles = zip(logits.split(tile_rows), ids[first + 1 :].split(tile_rows), strict=True)
        scored.append(torch.cat([target_logps(part, targets) for part, targets in tiles]))
    return scored


def target_logps(
    logits: Float[Tensor, "row vocab"], targets: Int64[Tensor, " row"]
) -> Float32[Tensor, " row"]:
    """Log-probability of one target per row: float32 log-sum-exp whatever the logits' dtype."""
    return logits.gather(1, targets[:, None])[:, 0].float() - log_normalisers(logits)


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


def _cache_argument(model: Any) -> str:
    """Name of the cache in this version of transformers (renamed in 5.x)."""
    names = inspect.signature(model.forward).parameters
    return "cache" if "cache" in names else "past_key_values"
