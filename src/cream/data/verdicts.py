"""Seed items that teach a verdict: which of two answers is better, the item's own or another's.

The answer of another item of the same task is taken to be the worse one, which the seed data must
bear out; items whose completions read alike are never set against each other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cream.algorithms.judging import VERDICT_LABELS, verdict_question
from cream.data.dedup import prompt_id
from cream.errors import DataError
from cream.runs.seeds import derive_seed
from cream.types import Prompt, SeedExample


def verdict_examples(
    examples: Sequence[SeedExample], *, count: int, seed: int
) -> tuple[SeedExample, ...]:
    """Two examples, one per order, of `count` items drawn without replacement.

    Either label is right as often as the other, whatever the items.

    Raises:
        DataError: Fewer items have another of their task with another completion.
    """
    order = sorted(
        range(len(examples)), key=lambda i: derive_seed(seed, "verdicts", _name(examples[i]))
    )
    found: list[SeedExample] = []
    for i in order:
        if len(found) == 2 * count:
            break
        others = sorted((e for e in examples if _differs(e, examples[i])), key=_name)
        if not others:
            continue
        generator = np.random.default_rng(derive_seed(seed, "other", _name(examples[i])))
        found += _both_orders(examples[i], others[int(generator.integers(len(others)))])
    if len(found) < 2 * count:
        raise DataError(
            f"data.seed.verdicts: {count} items are wanted, and {len(found) // 2} of "
            f"{len(examples)} have another item of their task with another completion; lower it, "
            "or give more seed data"
        )
    return tuple(found)


def _name(example: SeedExample) -> str:
    return f"{example.prompt.prompt_id} {example.completion}"


def _differs(one: SeedExample, other: SeedExample) -> bool:
    same_task = one.prompt.task == other.prompt.task
    return (
        same_task
        and one.prompt.prompt_id != other.prompt.prompt_id
        and one.completion.strip() != other.completion.strip()
    )


def _both_orders(right: SeedExample, other: SeedExample) -> list[SeedExample]:
    answers = (right.completion, other.completion)
    found = []
    for label, shown in zip(VERDICT_LABELS, (answers, answers[::-1]), strict=True):
        messages = verdict_question(right.prompt.messages, *shown)
        prompt = Prompt(prompt_id(messages), messages, task=right.prompt.task)
        found.append(SeedExample(prompt, label))
    return found
