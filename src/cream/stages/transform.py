"""Pairs to training examples of another shape, and the second scoring pass that these may need.

A transform may change prompts, add sequences or leave pairs out; what it does is its own business
(`cream.protocols.Transform`). Here it is given the pairs with all that is known of them, its
answers are checked, and the sequences that no stage has scored yet are named to a scorer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from cream.algorithms.preference import PAIR
from cream.errors import DataError
from cream.protocols import LogpScorer, TextEncoder, Transform
from cream.types import (
    Completion,
    Example,
    PairTable,
    Prompt,
    RankedPair,
    ScoringRequest,
    Tally,
    TokenSequence,
    Transformed,
)

TRANSFORMED = "transformed"
"""Name of the pairs with examples in a tally; the others are named by their reason."""


@dataclass(frozen=True, slots=True)
class ReferenceRow:
    """The sum of one sequence of an example under the loss reference."""

    example_id: str
    role: str
    reference_logps: float
    """Over the tokens of its loss mask, nats, added up in float64."""


def ranked_pairs(
    pairs: PairTable,
    completions: Iterable[Completion],
    references: Mapping[str, float],
    prompts: Mapping[str, Prompt],
    prompt_token_ids: Mapping[str, tuple[int, ...]],
    columns: Mapping[str, Mapping[str, float]] | None = None,
) -> list[RankedPair]:
    """Pairs with prompt, completions and sums under the loss reference, joined by id.

    Args:
        pairs: From the stage `pair`.
        completions: Of the score matrix; those of no pair are passed over.
        references: Log-prob sums under the loss reference by completion id, nats.
        prompts: Prompts by id.
        prompt_token_ids: Token ids per prompt id.
        columns: By completion id what else the score matrix knows of it.

    Raises:
        KeyError: A pair names a completion or prompt that is not there (a damaged run).
    """
    further = columns or {}
    wanted = pairs.completion_ids
    known = {c.completion_id: c for c in completions if c.completion_id in wanted}
    return [
        RankedPair(
            pair_id=pair.pair_id,
            prompt=prompts[pair.prompt_id],
            prompt_token_ids=prompt_token_ids[pair.prompt_id],
            chosen=known[pair.chosen_id],
            rejected=known[pair.rejected_id],
            chosen_reward=pair.chosen_reward,
            rejected_reward=pair.rejected_reward,
            consistency=pair.consistency,
            weight=pair.weight,
            chosen_reference=references[pair.chosen_id],
            rejected_reference=references[pair.rejected_id],
            columns={
                f"{role}_{name}": value
                for role, key in zip(PAIR, (pair.chosen_id, pair.rejected_id), strict=True)
                for name, value in further.get(key, {}).items()
            },
        )
        for pair in pairs.rows()
    ]


def transform_pairs(
    pairs: Sequence[RankedPair], transform: Transform, encoder: TextEncoder
) -> tuple[list[Example], Tally]:
    """Examples in the order of their pairs, and what became of each pair.

    Raises:
        DataError: The transform left a pair out without a reason, answered one twice or unasked,
            or gave two examples one id.
    """
    answers: dict[str, Transformed] = {}
    for answer in transform.transform(pairs, encoder):
        if answer.pair_id in answers:
            raise DataError(f"the transform answered pair {answer.pair_id} twice")
        if bool(answer.examples) == (answer.reason is not None):
            raise DataError(
                f"the transform gave pair {answer.pair_id} {len(answer.examples)} examples and "
                f"the reason {answer.reason!r}; give examples, or none and why"
            )
        answers[answer.pair_id] = answer
    asked = [pair.pair_id for pair in pairs]
    wrong = sorted(set(asked) ^ answers.keys())
    if wrong:
        raise DataError(
            f"the transform left out or made up {len(wrong)} pairs, {wrong[0]} among them; answer "
            "every pair once, with a reason where it has no examples"
        )
    examples = [example for key in asked for example in answers[key].examples]
    twice = [key for key, n in Counter(e.example_id for e in examples).items() if n > 1]
    if twice:
        raise DataError(
            f"the transform gave {len(twice)} ids to two examples, {twice[0]} among them"
        )
    counts = Counter(answers[key].reason or TRANSFORMED for key in asked)
    parts = {TRANSFORMED: counts.pop(TRANSFORMED, 0), **dict(sorted(counts.items()))}
    return examples, Tally(len(asked), parts)


def unscored(examples: Iterable[Example]) -> list[tuple[Example, str]]:
    """Example and role of every sequence without a sum under the loss reference."""
    return [
        (example, role)
        for example in examples
        for role, sequence in example.sequences.items()
        if sequence.reference_logps is None
    ]


def score_examples(examples: Sequence[Example], scorer: LogpScorer) -> list[ReferenceRow]:
    """Score what no stage has scored yet, under the model of the loss reference.

    Sequences of an example that follow the same prompt are asked together.

    Raises:
        ValueError: The scorer left a sequence out, or gave a sum that is not finite.
    """
    asked: dict[tuple[str, tuple[int, ...]], list[tuple[Example, str]]] = {}
    for example, role in unscored(examples):
        key = (example.example_id, example.prompt_of(role))
        asked.setdefault(key, []).append((example, role))
    requests = [
        ScoringRequest(str(place), prompt, tuple(e.sequences[r].token_ids for e, r in together))
        for place, ((_, prompt), together) in enumerate(asked.items())
    ]
    answers = {group.prompt_id: group.token_logps for group in scorer.score(requests)}
    rows = []
    for place, together in enumerate(asked.values()):
        given = answers.get(str(place), ())
        if len(given) != len(together):
            raise ValueError(f"scorer left out sequences of example {together[0][0].example_id}")
        rows += [
            _reference_row(example, role, logps)
            for (example, role), logps in zip(together, given, strict=True)
        ]
    return rows


def _reference_row(example: Example, role: str, logps: np.ndarray) -> ReferenceRow:
    sequence = example.sequences[role]
    if len(logps) != len(sequence.token_ids):
        raise ValueError(f"scorer left out {role} of example {example.example_id}")
    mask = np.array(sequence.loss_mask or (True,) * len(sequence.token_ids))
    total = float(np.sum(logps[mask], dtype=np.float64))
    if not np.isfinite(total):
        raise ValueError(f"scorer gave {total} for {role} of example {example.example_id}")
    return ReferenceRow(example.example_id, role, total)


def with_references(examples: Iterable[Example], rows: Iterable[ReferenceRow]) -> Iterator[Example]:
    """The examples with the sums of the second pass, joined by example and role.

    Raises:
        KeyError: A sequence was not scored (a damaged run).
    """
    sums = {(row.example_id, row.role): row.reference_logps for row in rows}
    for example in examples:
        yield replace(
            example,
            sequences={
                role: _with_sum(sequence, sums, (example.example_id, role))
                for role, sequence in example.sequences.items()
            },
        )


def _with_sum(
    sequence: TokenSequence, sums: Mapping[tuple[str, str], float], key: tuple[str, str]
) -> TokenSequence:
    if sequence.reference_logps is not None:
        return sequence
    return replace(sequence, reference_logps=sums[key])
