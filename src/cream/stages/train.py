"""Records to what the trainer takes: token ids, joined by id, with the reference's log-probs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from cream.training.examples import completion_example, pair_example
from cream.types import Example, Message, PairTable, SeedExample, TokenSequence

EncodePrompt = Callable[[Sequence[Message]], tuple[int, ...]]
EncodeCompletion = Callable[[Sequence[Message], str], tuple[int, ...]]


def seed_examples(
    examples: Sequence[SeedExample],
    encode_prompt: EncodePrompt,
    encode_completion: EncodeCompletion,
) -> list[Example]:
    """Seed examples as the ids the policy would have had to sample, end token included."""
    return [
        completion_example(
            f"{example.prompt.prompt_id}-{index}",
            encode_prompt(example.prompt.messages),
            encode_completion(example.prompt.messages, example.completion),
        )
        for index, example in enumerate(examples)
    ]


def pair_examples(
    pairs: PairTable,
    completions: pa.Table,
    prompt_token_ids: Mapping[str, tuple[int, ...]],
    *,
    reference_column: str,
) -> list[Example]:
    """Pairs with the sampled ids of both sides and their sums under the loss reference.

    Args:
        pairs: From the stage `pair`.
        completions: Columns ``completion_id``, ``token_ids`` and `reference_column`.
        prompt_token_ids: Token ids per prompt id.
        reference_column: Log-prob sums under the loss reference.

    Raises:
        KeyError: A pair names a completion or prompt that is not there (a damaged run).
    """
    wanted = {*pairs.chosen_ids.tolist(), *pairs.rejected_ids.tolist()}
    sequences = {
        key: TokenSequence(tuple(ids.as_py()), logps.as_py())
        for key, ids, logps in zip(
            completions["completion_id"].to_pylist(),
            completions["token_ids"],
            completions[reference_column],
            strict=True,
        )
        if key in wanted
    }
    return [
        pair_example(
            f"{chosen}>{rejected}",
            prompt_token_ids[prompt_id],
            sequences[chosen],
            sequences[rejected],
            consistency=consistency,
            weight=weight,
        )
        for prompt_id, chosen, rejected, consistency, weight in zip(
            pairs.prompt_ids.tolist(),
            pairs.chosen_ids.tolist(),
            pairs.rejected_ids.tolist(),
            pairs.consistency.tolist(),
            pairs.weight.tolist(),
            strict=True,
        )
    ]
