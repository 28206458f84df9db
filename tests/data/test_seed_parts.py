"""Seed examples of policy and witnesses: no prompt in two parts, decided by prompts and seed."""

import pytest

from cream.data.dedup import prompt_id
from cream.data.splits import POLICY, split_seed
from cream.errors import DataError
from cream.types import Message, Prompt, SeedExample


def examples(count, copies=1):
    made = []
    for i in range(count):
        messages = (Message("user", f"question {i}"),)
        prompt = Prompt(prompt_id(messages), messages)
        made += [SeedExample(prompt, f"answer {i}.{k}") for k in range(copies)]
    return made


def keys(part):
    return [(e.prompt.prompt_id, e.completion) for e in part]


def test_every_example_is_in_one_part_and_shares_are_rounded_down():
    """11 prompts: int(0.25 * 11) = 2 for a, int(0.3 * 11) = 3 for b, the other 6 for the policy."""
    given = examples(11)
    parts = split_seed(given, {"a": 0.25, "b": 0.3}, seed=0)

    assert {name: len(part) for name, part in parts.items()} == {POLICY: 6, "a": 2, "b": 3}
    assert sorted(key for part in parts.values() for key in keys(part)) == sorted(keys(given))


def test_a_part_keeps_the_order_of_the_sources():
    given = examples(20)
    order = {key: i for i, key in enumerate(keys(given))}

    for part in split_seed(given, {"a": 0.5}, seed=3).values():
        places = [order[key] for key in keys(part)]
        assert places == sorted(places)


def test_completions_of_one_prompt_stay_together():
    parts = split_seed(examples(10, copies=3), {"a": 0.5}, seed=1)

    assert [len(part) for part in parts.values()] == [15, 15]
    prompts = [{e.prompt.prompt_id for e in part} for part in parts.values()]
    assert not prompts[0] & prompts[1]


def test_the_division_depends_on_the_seed_and_not_on_the_order_given():
    given = examples(20)
    part = set(keys(split_seed(given, {"a": 0.5}, seed=0)["a"]))

    assert set(keys(split_seed(given[::-1], {"a": 0.5}, seed=0)["a"])) == part
    assert set(keys(split_seed(given, {"a": 0.5}, seed=1)["a"])) != part


def test_without_shares_the_policy_gets_everything_as_given():
    given = examples(5)

    assert split_seed(given, {}, seed=0) == {POLICY: tuple(given)}


def test_a_share_of_too_few_examples_is_refused():
    """int(0.3 * 3) = 0."""
    with pytest.raises(DataError, match="3 seed prompts leave none to a"):
        split_seed(examples(3), {"a": 0.3}, seed=0)


def test_a_share_of_29_percent_of_100_prompts_is_29():
    assert len(split_seed(examples(100), {"a": 0.29}, seed=0)["a"]) == 29
