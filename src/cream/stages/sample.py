"""Prompts to completions: ask a sampler, keep ids, decode for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from cream.protocols import Sampler, SamplingParams
from cream.types import (
    Completion,
    EncodedPrompt,
    FinishReason,
    Origin,
    SampledGroup,
    SamplingRequest,
)


def sample(
    prompts: Sequence[EncodedPrompt],
    sampler: Sampler,
    params: SamplingParams,
    *,
    num_completions: int,
    seed_of: Callable[[str, int], int],
    decode: Callable[[Sequence[int]], str],
    origin: Origin = Origin.POLICY,
) -> Iterator[list[Completion]]:
    """Draw `num_completions` completions per prompt; one list per prompt, in prompt order.

    Args:
        prompts: Prompts with ids; ids must be unique.
        sampler: Draws; may answer in any order.
        params: Temperature, nucleus, limits.
        num_completions: N >= 1.
        seed_of: Seed of completion k of a prompt, from (prompt id, k).
        decode: Token ids to text without special tokens.
        origin: Who draws. It is part of the ids, unless it is the policy.

    Raises:
        ValueError: The sampler left a prompt out, answered one twice, or gave another number of
            completions than asked.
    """
    requests = [
        SamplingRequest(
            p.prompt.prompt_id,
            p.token_ids,
            tuple(seed_of(p.prompt.prompt_id, k) for k in range(num_completions)),
        )
        for p in prompts
    ]
    expected = {request.prompt_id for request in requests}
    groups: dict[str, SampledGroup] = {}
    for group in sampler.sample(requests, params):
        if group.prompt_id in groups or group.prompt_id not in expected:
            raise ValueError(f"sampler answered {group.prompt_id} twice or unasked")
        if len(group.completions) != num_completions:
            raise ValueError(
                f"sampler gave {len(group.completions)} completions for {group.prompt_id}, "
                f"asked {num_completions}"
            )
        groups[group.prompt_id] = group
    missing = expected - groups.keys()
    if missing:
        raise ValueError(f"sampler left out {len(missing)} prompts, {min(missing)} among them")
    for request in requests:
        yield _decoded(groups[request.prompt_id], decode, origin)


def greedy(
    prompts: Sequence[EncodedPrompt],
    sampler: Sampler,
    params: SamplingParams,
    *,
    seed: int,
    decode: Callable[[Sequence[int]], str],
) -> dict[str, Completion]:
    """The most likely next token, again and again: one answer per prompt, by prompt id.

    Args:
        prompts: As in `sample`.
        sampler: As in `sample`.
        params: Limits; the temperature is 0 whatever they say.
        seed: Given to the sampler, which draws nothing.
        decode: As in `sample`.
    """
    groups = sample(
        prompts,
        sampler,
        greedily(params),
        num_completions=1,
        seed_of=lambda prompt_id, k: seed,
        decode=decode,
    )
    return {group[0].prompt_id: group[0] for group in groups}


def greedily(params: SamplingParams) -> SamplingParams:
    """The same limits at temperature 0."""
    return replace(params, temperature=0.0, top_p=1.0)


def with_data_completions(
    group: Sequence[Completion],
    texts: Sequence[str],
    encode: Callable[[str], tuple[int, ...]],
    decode: Callable[[Sequence[int]], str],
) -> list[Completion]:
    """A group with what a data set answers to the same prompt (origin ``data``) put first.

    First, because of equal completions the first is kept: a sampled copy of the data's completion
    then counts as a duplicate of it. Nothing was drawn, so there is no sampling log-probability and
    the seed is 0.

    Args:
        group: Sampled completions of one prompt.
        texts: The data set's completions of it.
        encode: Text to the ids the policy would have had to sample, end token included.
        decode: Token ids to text without special tokens.
    """
    prompt_id = group[0].prompt_id
    data = [
        Completion(
            prompt_id=prompt_id,
            completion_id=f"{prompt_id}-{Origin.DATA}-{index}",
            token_ids=ids,
            text=decode(ids),
            finish_reason=FinishReason.STOP,
            seed=0,
            origin=Origin.DATA,
        )
        for index, ids in enumerate(map(encode, texts))
    ]
    return [*data, *group]


def _decoded(
    group: SampledGroup, decode: Callable[[Sequence[int]], str], origin: Origin
) -> list[Completion]:
    stem = group.prompt_id if origin == Origin.POLICY else f"{group.prompt_id}-{origin}"
    return [
        Completion(
            prompt_id=group.prompt_id,
            completion_id=f"{stem}-{k}",
            token_ids=tokens.token_ids,
            text=decode(tokens.token_ids),
            finish_reason=tokens.finish_reason,
            seed=tokens.seed,
            sampling_logp=tokens.sampling_logp,
            origin=origin,
        )
        for k, tokens in enumerate(group.completions)
    ]
