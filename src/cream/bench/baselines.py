"""What one would otherwise run: ``generate()`` and the padded forward with all logits.

Both are written the way they are commonly written, with their best known batch sizes, and are
checked against ours before anything is timed. The padded forward follows the description of the
original CREAM code (one padded row per prompt and completion, logits of all tokens, log-softmax in
the model's dtype, then a gather); nothing of it is copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from jaxtyping import Float32
from transformers import GenerationConfig

from cream.protocols import SamplingParams
from cream.types import SamplingRequest, ScoredGroup, ScoringRequest

Item = TypeVar("Item")

GENERATE_ROWS = 128
"""Completions per call of ``generate()``: measured faster than 32, and what memory allows."""
PADDED_ROWS = 16
"""Rows per forward with all logits: 16 x 500 tokens x 49152 numbers are 0.8 GB in bfloat16."""


def generate_completions(
    model: Any, requests: Sequence[SamplingRequest], params: SamplingParams, *, pad_id: int
) -> list[list[tuple[int, ...]]]:
    """Sample with transformers' ``generate()``: prompts padded on the left, N rows each.

    Returns:
        Per request its completions, each cut after its first stop token.
    """
    n = len(requests[0].seeds)
    config = GenerationConfig(
        do_sample=params.temperature > 0,
        temperature=params.temperature if params.temperature > 0 else 1.0,
        top_p=params.top_p,
        top_k=0,
        max_new_tokens=params.max_completion_tokens,
        num_return_sequences=n,
        # None would be replaced by the model's own; no token has this id.
        eos_token_id=list(params.stop_ids) or [model.config.get_text_config().vocab_size],
        pad_token_id=pad_id,
    )
    device = next(model.parameters()).device
    result: list[list[tuple[int, ...]]] = []
    for batch in _batched(requests, max(1, GENERATE_ROWS // n)):
        width = max(len(request.prompt_ids) for request in batch)
        padding = [width - len(request.prompt_ids) for request in batch]
        ids = [[pad_id] * p + list(r.prompt_ids) for p, r in zip(padding, batch, strict=True)]
        mask = [[0] * p + [1] * (width - p) for p in padding]
        with torch.inference_mode():
            output = model.generate(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=torch.tensor(mask, device=device),
                generation_config=config,
            )
        rows = [_cut(row, params.stop_ids) for row in output[:, width:].tolist()]
        result += [rows[i : i + n] for i in range(0, len(rows), n)]
    return result


def _cut(row: list[int], stop_ids: Sequence[int]) -> tuple[int, ...]:
    ends = [i + 1 for i, token in enumerate(row) if token in stop_ids]
    return tuple(row[: ends[0]] if ends else row)


def score_padded(
    model: Any, requests: Sequence[ScoringRequest], *, pad_id: int
) -> Iterator[ScoredGroup]:
    """Score with a padded row per prompt and completion and the logits of every token.

    Yields:
        As `LogpScorer` does; the sums are float32, the log-softmax is in the model's dtype.
    """
    rows = [(r.prompt_ids, completion) for r in requests for completion in r.completions]
    scored: list[Float32[np.ndarray, " token"]] = []
    with torch.inference_mode():
        for batch in _batched(rows, PADDED_ROWS):
            scored += _score_rows(model, batch, pad_id)
    at = 0
    for request in requests:
        count = len(request.completions)
        yield ScoredGroup(request.prompt_id, tuple(scored[at : at + count]))
        at += count


def _score_rows(
    model: Any, rows: Sequence[tuple[tuple[int, ...], tuple[int, ...]]], pad_id: int
) -> list[Float32[np.ndarray, " token"]]:
    device = next(model.parameters()).device
    width = max(len(prompt) + len(completion) for prompt, completion in rows)
    ids = torch.full((len(rows), width), pad_id, device=device)
    mask = torch.zeros_like(ids)
    for index, (prompt, completion) in enumerate(rows):
        length = len(prompt) + len(completion)
        ids[index, :length] = torch.tensor(prompt + completion, device=device)
        mask[index, :length] = 1
    logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
    logps = logits[:, :-1].log_softmax(-1)
    chosen = logps.gather(2, ids[:, 1:, None])[..., 0].float().cpu().numpy()
    return [
        chosen[index, len(prompt) - 1 : len(prompt) + len(completion) - 1]
        for index, (prompt, completion) in enumerate(rows)
    ]


def padding_share(lengths: Sequence[int], rows: int) -> float:
    """Share of padding in the tokens computed, if rows are batched in the order given."""
    computed = sum(len(batch) * max(batch) for batch in _batched(lengths, rows))
    return 1 - sum(lengths) / computed


def _batched(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
