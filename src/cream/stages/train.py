"""Records to what the trainer takes: token ids, joined by id, with the reference's log-probs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pyarrow as pa

from cream.types import Message, PairTable, SeedExample, TokenisedExample, TokenisedPair

EncodePrompt = Callable[[Sequence[Message]], tuple[int, ...]]
EncodeCompletion = Callable[[Sequence[Message], str], tuple[int, ...]]


def tokenise_examples(
    examples: Sequence[SeedExample],
    encode_prompt: EncodePrompt,
    encode_completion: EncodeCompletion,
) -> list[TokenisedExample]:
    """Seed examples as the ids the policy would have had to sample, end token included."""
    return [
        TokenisedExample(
            example_id=f"{example.prompt.prompt_id}-{index}",
            prompt_ids=encode_prompt(example.prompt.messages),
            completion_ids=encode_completion(example.prompt.messages, example.completion),
        )
        for index, example in enumerate(examples)
    ]


def tokenise_pairs(
    pairs: PairTable,
    completions: pa.Table,
    prompt_ids: Mapping[str, tuple[int, ...]],
    *,
    reference_column: str,
) -> list[TokenisedPair]:
    """Pairs with the sampled ids of both sides and their sums under the loss reference.

    Args:
        pairs: From the stage `pair`.
        completions: Columns ``completion_id``, ``token_ids`` and `reference_column`.
        prompt_ids: Token ids per prompt id.
        reference_column: Log-prob sums under the loss reference.

    Raises:
        KeyError: A pair names a completion or prompt that is not there (a damaged run).
    """
    wanted = {*pairs.chosen_ids.tolist(), *pairs.rejected_ids.tolist()}
    rows = {
        key: (tuple(ids.as_py()), logps.as_py())
        for key, ids, logps in zip(
            completions["completion_id"].to_pylist(),
            completions["token_ids"],
            completions[reference_column],
            strict=True,
        )
        if key in wanted
    }
    tokenised = []
    for prompt_id, chosen, rejected, consistency, weight in zip(
        pairs.prompt_ids.tolist(),
        pairs.chosen_ids.tolist(),
        pairs.rejected_ids.tolist(),
        pairs.consistency.tolist(),
        pairs.weight.tolist(),
        strict=True,
    ):
        (chosen_ids, chosen_logps), (rejected_ids, rejected_logps) = rows[chosen], rows[rejected]
        tokenised.append(
            TokenisedPair(
                pair_id=f"{chosen}>{rejected}",
                prompt_ids=prompt_ids[prompt_id],
                chosen_ids=chosen_ids,
                rejected_ids=rejected_ids,
                reference_chosen_logps=chosen_logps,
                reference_rejected_logps=rejected_logps,
                consistency=consistency,
                weight=weight,
            )
        )
    return tokenised
