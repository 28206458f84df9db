"""Seed items as questions of which answer is better."""

from __future__ import annotations

import pytest

from cream.algorithms.judging import verdict_prompt
from cream.data.dedup import prompt_id
from cream.data.verdicts import verdict_examples
from cream.errors import DataError
from cream.types import Message, Prompt, SeedExample


def item(question: str, answer: str, task: str = "sums") -> SeedExample:
    messages = (Message("user", question),)
    return SeedExample(Prompt(prompt_id(messages), messages, task), answer)


ITEMS = [item(f"{n}+1=", str(n + 1)) for n in range(6)] + [item("Sky?", "blue", "colours")] * 1


def test_both_orders_are_asked_and_the_label_follows_the_right_answer():
    found = verdict_examples(ITEMS, count=6, seed=1)
    right = {e.prompt.messages[0].content: e.completion for e in ITEMS}

    assert len(found) == 12
    for first, second in zip(found[::2], found[1::2], strict=True):
        assert (first.completion, second.completion) == ("A", "B")
        text = first.prompt.messages[0].content
        asked = next(q for q in right if f"\n{q}\n" in text)
        answers = text.split("Response A:\n")[1].split("\n\nResponse B:\n")
        assert answers[0] == right[asked] != answers[1]
        assert second.prompt.messages[0].content == verdict_prompt(asked, answers[1], answers[0])
    assert len({e.prompt.prompt_id for e in found}) == 12


def test_the_items_drawn_follow_from_the_seed_and_not_from_the_order():
    one = verdict_examples(ITEMS, count=3, seed=1)
    assert verdict_examples(ITEMS[::-1], count=3, seed=1)[0].prompt == one[0].prompt
    assert verdict_examples(ITEMS, count=3, seed=2) != one


def test_an_item_without_another_of_its_task_cannot_be_judged():
    with pytest.raises(DataError, match="7 items are wanted, and 6 of 7 have another item"):
        verdict_examples(ITEMS, count=7, seed=1)
    with pytest.raises(DataError, match="1 items are wanted, and 0 of 2"):
        verdict_examples([item("a", "same"), item("b", " same")], count=1, seed=1)
