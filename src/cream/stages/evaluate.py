"""A policy to per-example results on the test prompts: one greedy answer, and samples beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from cream.protocols import Sampler, SamplingParams, Verifier
from cream.stages.sample import greedily, sample
from cream.types import EncodedPrompt


@dataclass(frozen=True, slots=True)
class EvaluationRow:
    """One answer to one test prompt."""

    prompt_id: str
    task: str
    index: int
    """-1 for the greedy answer, else the sample's number."""
    text: str
    finish_reason: str
    num_tokens: int
    correct: bool
    partial_credit: float
    extracted: str | None


def evaluate(
    prompts: Sequence[EncodedPrompt],
    sampler: Sampler,
    verifier: Verifier,
    params: SamplingParams,
    *,
    num_samples: int,
    seed_of: Callable[[str, int], int],
    decode: Callable[[Sequence[int]], str],
) -> Iterator[EvaluationRow]:
    """Answer every test prompt greedily and `num_samples` times at random, and verify.

    Args:
        prompts: Test prompts; every one must be verifiable.
        sampler: Of the policy under test.
        verifier: Judges the texts.
        params: For the samples; the greedy pass uses temperature 0 with the same limits.
        num_samples: 0 for the greedy answer only.
        seed_of: Seed of sample k of a prompt.
        decode: Token ids to text.

    Raises:
        ValueError: A prompt has no verdict (no reference answer).
    """
    by_id = {p.prompt.prompt_id: p.prompt for p in prompts}
    passes = [(greedily(params), 1, -1)]
    if num_samples:
        passes.append((params, num_samples, 0))
    for pass_params, count, first_index in passes:
        groups = sample(
            prompts,
            sampler,
            pass_params,
            num_completions=count,
            seed_of=seed_of,
            decode=decode,
        )
        for group in groups:
            for k, completion in enumerate(group):
                prompt = by_id[completion.prompt_id]
                verdict = verifier.verify(prompt, completion.text)
                if verdict is None:
                    raise ValueError(f"test prompt {prompt.prompt_id} has no reference answer")
                yield EvaluationRow(
                    prompt_id=prompt.prompt_id,
                    task=prompt.task,
                    index=first_index + k,
                    text=completion.text,
                    finish_reason=str(completion.finish_reason),
                    num_tokens=len(completion.token_ids),
                    correct=verdict.correct,
                    partial_credit=verdict.partial_credit,
                    extracted=verdict.extracted,
                )
