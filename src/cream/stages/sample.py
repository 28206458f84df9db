"""Prompts to completions: ask a sampler, keep ids, decode for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from cream.protocols import Sampler, SamplingParams
from cream.types import Completion, EncodedPrompt, SampledGroup, SamplingRequest


def sample(
    prompts: Sequence[EncodedPrompt],
    sampler: Sampler,
    params: SamplingParams,
    *,
    num_completions: int,
    seed_of: Callable[[str, int], int],
    decode: Callable[[Sequence[int]], str],
) -> Iterator[list[Completion]]:
    """Draw `num_completions` completions per prompt; one list per prompt, in prompt order.

    Args:
        prompts: Prompts with ids; ids must be unique.
        sampler: Draws; may answer in any order.
        params: Temperature, nucleus, limits.
        num_completions: N >= 1.
        seed_of: Seed of completion k of a prompt, from (prompt id, k).
        decode: Token ids to text without special tokens.

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
        yield _decoded(groups[request.prompt_id], decode)


def _decoded(group: SampledGroup, decode: Callable[[Sequence[int]], str]) -> list[Completion]:
    return [
        Completion(
            prompt_id=group.prompt_id,
            completion_id=f"{group.prompt_id}-{k}",
            token_ids=tokens.token_ids,
            text=decode(tokens.token_ids),
            finish_reason=tokens.finish_reason,
            seed=tokens.seed,
            sampling_logp=tokens.sampling_logp,
        )
        for k, tokens in enumerate(group.completions)
    ]
