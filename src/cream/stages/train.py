"""Records to what the trainer takes: token ids, joined by id, with the reference's log-probs."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import cycle, islice

import numpy as np
import pyarrow as pa

from cream.algorithms.optimism import ANSWER, IS_CHOSEN, IS_REJECTED
from cream.algorithms.preference import PAIR
from cream.algorithms.trajectories import token_places
from cream.errors import DataError
from cream.protocols import TextEncoder
from cream.recipe.training import ReplayConfig
from cream.runs.seeds import derive_seed
from cream.training.examples import pair_example
from cream.types import Example, PairTable, SeedExample, Tally, TokenSequence

APART = "apart"
"""Of an answer: it is neither completion of its pair."""
_IDS = ("completion_id", "token_ids")


def seed_examples(examples: Sequence[SeedExample], encoder: TextEncoder) -> list[Example]:
    """Seed examples as the ids the policy would have had to sample, end token included."""
    return [
        Example(
            f"{example.prompt.prompt_id}-{index}",
            encoder.encode_prompt(example.prompt.messages),
            {"completion": imitated(example, encoder)},
        )
        for index, example in enumerate(examples)
    ]


def imitated(example: SeedExample, encoder: TextEncoder) -> TokenSequence:
    """The completion of a seed example, with the tokens that a loss may be taken of.

    A token with characters of two spans belongs to the later one, the end token to the last.

    Raises:
        DataError: The template changes the completion, so that its spans cannot be found.
    """
    ids = encoder.encode_completion(example.prompt.messages, example.completion)
    if not example.masked:
        return TokenSequence(ids)
    left_out = example.completion.find(encoder.decode(ids))
    if left_out < 0:
        raise DataError(
            f"the chat template or the tokenizer changes the seed completion "
            f"{example.completion!r:.60} to {encoder.decode(ids)!r:.60}, so that its masked spans "
            "cannot be found; write it as it comes out, or take the spans out"
        )
    places = [max(place - left_out, 0) for span in example.masked for place in span]
    found = token_places(places, ids, encoder.decode)
    mask = [True] * len(ids)
    for start, end in zip(found[::2], found[1::2], strict=True):
        mask[start:end] = [False] * (end - start)
    return TokenSequence(ids, loss_mask=tuple(mask))


def pair_columns(completion_columns: Iterable[str]) -> tuple[str, ...]:
    """Columns that an example of a pair may have, given those of a completion.

    ``consistency``, the rewards of both sides, and ``chosen_x`` and ``rejected_x`` for every
    column x of a completion.
    """
    sides = (f"{role}_{name}" for role in PAIR for name in ("reward", *completion_columns))
    return ("consistency", *sides)


def pair_examples(
    pairs: PairTable,
    completions: pa.Table,
    prompt_token_ids: Mapping[str, tuple[int, ...]],
    *,
    reference_column: str,
    columns: Sequence[str] = (),
) -> list[Example]:
    """Pairs with the sampled ids of both sides and their sums under the loss reference.

    Args:
        pairs: From the stage `pair`.
        completions: Columns ``completion_id``, ``token_ids``, `reference_column`, and others of
            numbers, in which null or NaN says that there is no value.
        prompt_token_ids: Token ids per prompt id.
        reference_column: Log-prob sums under the loss reference.
        columns: Columns of the examples beside ``consistency`` that are kept (see `pair_columns`).

    Raises:
        KeyError: A pair names a completion or prompt that is not there (a damaged run).
    """
    wanted = pairs.completion_ids
    numbers = [n for n in completions.column_names if n not in ("prompt_id", *_IDS)]
    paired = pa.array([key in wanted for key in completions["completion_id"].to_pylist()])
    needed = completions.select([*_IDS, *numbers]).filter(paired)
    rows = {row["completion_id"]: row for row in needed.to_pylist()}
    examples = []
    for pair in pairs.rows():
        sides = (rows[pair.chosen_id], rows[pair.rejected_id])
        rewards = (pair.chosen_reward, pair.rejected_reward)
        known = {
            f"{role}_{name}": value
            for role, side, reward in zip(PAIR, sides, rewards, strict=True)
            for name, value in {"reward": reward, **{n: side[n] for n in numbers}}.items()
        }
        present = {n: float(known[n]) for n in columns if _is_value(known.get(n))}
        example = pair_example(
            pair.pair_id,
            prompt_token_ids[pair.prompt_id],
            *(TokenSequence(tuple(s["token_ids"]), s[reference_column]) for s in sides),
            consistency=pair.consistency,
            weight=pair.weight,
        )
        examples.append(replace(example, columns={**present, **example.columns}))
    return examples


def on_touched(
    examples: Sequence[Example],
    pairs: PairTable,
    touched: Mapping[str, tuple[bool, ...]],
    reference_logps: Mapping[str, tuple[float, ...]],
) -> list[Example]:
    """Pairs of an edit and its original on the touched tokens alone, under both models.

    Sums under the loss reference are made as those of whole completions are: of float32 numbers, in
    float64. With all tokens touched nothing changes, bit for bit.

    Args:
        examples: Of `pair_examples`.
        pairs: The pairs that they are of.
        touched: By completion id which tokens the edit touched.
        reference_logps: By completion id log-probabilities of all tokens under the loss reference.

    Raises:
        KeyError: A completion is not there (a damaged run).
    """
    keys = {p.pair_id: {"chosen": p.chosen_id, "rejected": p.rejected_id} for p in pairs.rows()}

    def masked(key: str, sequence: TokenSequence) -> TokenSequence:
        mask = touched[key]
        logps = np.array(reference_logps[key], dtype=np.float32)
        total = float(np.sum(logps[np.array(mask, dtype=bool)], dtype=np.float64))
        return replace(sequence, loss_mask=mask, reference_logps=total)

    return [
        replace(
            example,
            sequences={
                role: masked(keys[example.example_id][role], sequence)
                for role, sequence in example.sequences.items()
            },
        )
        for example in examples
    ]


def agreed_examples(
    chosen: Mapping[str, str],
    completions: pa.Table,
    prompt_token_ids: Mapping[str, tuple[int, ...]],
    *,
    reference_column: str,
) -> list[Example]:
    """What unanimous groups say, as examples without a rejected sequence, C = 1.

    Args:
        chosen: Completion id by prompt id.
        completions: As in `pair_examples`.
        prompt_token_ids: Token ids per prompt id.
        reference_column: Log-prob sums under the loss reference.

    Raises:
        KeyError: A completion or prompt is not there (a damaged run).
    """
    wanted = set(chosen.values())
    found = pa.array([key in wanted for key in completions["completion_id"].to_pylist()])
    rows = completions.select([*_IDS, reference_column]).filter(found).to_pylist()
    sequences = {
        row["completion_id"]: TokenSequence(tuple(row["token_ids"]), row[reference_column])
        for row in rows
    }
    return [
        Example(
            completion,
            prompt_token_ids[prompt],
            {"chosen": sequences[completion]},
            {"consistency": 1.0},
        )
        for prompt, completion in chosen.items()
    ]


def replayed(
    examples: Sequence[SeedExample],
    config: ReplayConfig,
    *,
    beside: int,
    epochs: int,
    seed: int,
    encoder: TextEncoder,
) -> list[list[Example]]:
    """Seed examples to be trained on beside others, without a rejected sequence, C = 1.

    Every epoch has others, as far as there are enough.

    Args:
        examples: Seed examples of M1.
        config: Their share and weight.
        beside: How many other examples there are in an epoch.
        epochs: How many lists are made.
        seed: Decides, with the ids, which ones are taken.
        encoder: Messages and completions to ids.
    """
    order = sorted(
        enumerate(examples),
        key=lambda item: derive_seed(seed, item[1].prompt.prompt_id, item[1].completion),
    )
    count = min(config.beside(beside), len(order))

    def made(epoch: int, index: int, example: SeedExample) -> Example:
        return Example(
            f"replayed-{epoch}-{example.prompt.prompt_id}-{index}",
            encoder.encode_prompt(example.prompt.messages),
            {"chosen": imitated(example, encoder)},
            {"consistency": 1.0},
            config.weight,
        )

    endless = cycle(order)
    return [[made(epoch, *item) for item in islice(endless, count)] for epoch in range(epochs)]


def with_answers(
    examples: Sequence[Example],
    prompt_of: Mapping[str, str],
    answers: Mapping[str, TokenSequence | str],
) -> tuple[list[Example], Tally]:
    """Examples with the answer y of their prompt, for an objective that reads it beside the pair.

    An answer with the tokens of one side of the pair is that side, so it is not run twice: a
    column says so (`cream.algorithms.optimism`).

    Args:
        examples: Pairs, and what unanimous groups say.
        prompt_of: Prompt id by example id.
        answers: By prompt id y with its sum under the loss reference, or why there is none.

    Returns:
        The examples, and their number by where y is: ``apart``, ``chosen``, ``rejected``, or why
        there is none.

    Raises:
        KeyError: An example has no prompt, or a prompt is not among the answers (a damaged run).
    """
    found, counts = [], Counter[str]()
    for example in examples:
        answer = answers[prompt_of[example.example_id]]
        place, sequences = _place(example, answer), example.sequences
        if isinstance(answer, TokenSequence) and place == APART:
            sequences = {**sequences, ANSWER: answer}
        said = {IS_CHOSEN: float(place == "chosen"), IS_REJECTED: float(place == "rejected")}
        columns = {**example.columns, **said}
        found.append(replace(example, sequences=sequences, columns=columns))
        counts[place] += 1
    return found, Tally(len(found), dict(sorted(counts.items())))


def _place(example: Example, answer: TokenSequence | str) -> str:
    """Which sequence of an example an answer is, or why it has none."""
    if isinstance(answer, str):
        return answer
    same = [r for r, own in example.sequences.items() if own.token_ids == answer.token_ids]
    return same[0] if same else APART


def _is_value(value: float | None) -> bool:
    return value is not None and not math.isnan(value)
