"""What sampler and scorer share about requests: bounded windows of a stream, and its checks.

Requests may be a stream of a million prompts: a window is what is held, sorted and batched at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from cream.errors import ModelError, NotFiniteError
from cream.models.devices import is_out_of_memory
from cream.types import SamplingRequest, ScoringRequest

Say = Callable[[str], None]
"""Tells a user what they should know at once."""
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


def out_of_memory(error: BaseException) -> str:
    """What an error says of memory, on a line; another error is raised again."""
    if not is_out_of_memory(error):
        raise error
    return (str(error).splitlines() or [type(error).__name__])[0]


def no_room(prompt_id: str, problem: str) -> ModelError:
    """The error of a single prompt that memory does not hold."""
    return ModelError(
        f"prompt {prompt_id}: memory does not hold it with its completions alone ({problem}). Use "
        "fewer or shorter completions (sampling), a smaller model, or a larger machine."
    )


def require_finite(
    request: SamplingRequest | ScoringRequest, logps: Iterable[float], completions: Sequence[Any]
) -> None:
    """Raise `NotFiniteError`, naming the prompt, unless every log-probability is a number.

    A NaN or an infinity among the logits of a position makes that of its token NaN.

    Args:
        request: What was asked.
        logps: Log-probabilities of completions, or of their tokens.
        completions: Token ids of each completion.
    """
    if all(map(math.isfinite, logps)):
        return
    raise NotFiniteError(
        f"prompt {request.prompt_id}: the model's logits are NaN or infinite, so nothing can be "
        "drawn or scored. Compute in float32 (model.compute_dtype), or take another model.",
        {
            "prompt_id": request.prompt_id,
            "prompt_token_ids": list(request.prompt_token_ids),
            "completions": [list(ids) for ids in completions],
        },
    )


def _completions(request: SamplingRequest | ScoringRequest) -> tuple[object, ...]:
    return request.seeds if isinstance(request, SamplingRequest) else request.completions
