"""What sampler and scorer share about requests: bounded windows of a stream, and its checks.

Requests may be a stream of a million prompts: a window is what is held, sorted and batched at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from cream.errors import ModelError
from cream.types import SamplingRequest, ScoringRequest

Request = TypeVar("Request", SamplingRequest, ScoringRequest)


def windows(requests: Iterable[Request], rows: int) -> Iterator[list[Request]]:
    """Cut a stream into consecutive lists of at least ``rows`` completions (the last may be short).

    Raises:
        ValueError: A prompt without tokens.
    """
    window: list[Request] = []
    count = 0
    for request in requests:
        if not request.prompt_token_ids:
            raise ValueError(f"prompt {request.prompt_id}: it has no tokens to condition on")
        window.append(request)
        count += len(_completions(request))
        if count >= rows:
            yield window
            window, count = [], 0
    if window:
        yield window


def check_length(prompt_id: str, tokens: int, limit: int | None) -> None:
    """Raise `ModelError` if a sequence is longer than the model's context."""
    if limit is not None and tokens > limit:
        raise ModelError(
            f"prompt {prompt_id}: prompt and completion need up to {tokens} tokens, the model has "
            f"positions for {limit}. Shorten the prompt or lower the token limit of completions."
        )


def _completions(request: SamplingRequest | ScoringRequest) -> tuple[object, ...]:
    return request.seeds if isinstance(request, SamplingRequest) else request.completions
