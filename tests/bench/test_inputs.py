"""The inputs have the lengths that their cases state."""

from __future__ import annotations

import pytest

from cream.bench.inputs import completions, long_prompts, prompts, scoring_requests
from cream.models.chat import ChatEncoder
from cream.testing import tiny_tokenizer


@pytest.fixture(scope="module")
def encoder() -> ChatEncoder:
    return ChatEncoder(tiny_tokenizer())


def test_the_short_prompts_are_64_different_ones(encoder: ChatEncoder):
    found = prompts(encoder, 64)

    assert len(set(found)) == 64
    assert prompts(encoder, 3) == found[:3]


def test_long_prompts_have_their_length_and_the_template_ends(encoder: ChatEncoder):
    """Shorter and longer than the passage; each ends with the generation prompt."""
    found = long_prompts(encoder, [60, 512, 3000])

    assert [len(ids) for ids in found] == [60, 512, 3000]
    assert all(str(encoder.tokenizer.decode(list(ids))).endswith("assistant\n") for ids in found)
    assert found[0][:20] != found[1][:20]


def test_a_prompt_without_room_for_the_template_is_refused(encoder: ChatEncoder):
    with pytest.raises(ValueError, match="no room"):
        long_prompts(encoder, [10])


def test_completions_have_their_length_end_with_the_end_token_and_differ(encoder: ChatEncoder):
    found = completions(encoder, [2, 50, 50, 2000])

    assert [len(ids) for ids in found] == [2, 50, 50, 2000]
    assert {ids[-1] for ids in found} == {encoder.end_of_turn_id}
    assert all(encoder.end_of_turn_id not in ids[:-1] for ids in found)
    assert found[1] != found[2]


def test_scoring_lengths_are_within_their_ranges_and_the_same_every_time(encoder: ChatEncoder):
    found = scoring_requests(encoder, 8, 3, (80, 90), (5, 9))

    assert {len(r.completions) for r in found} == {3}
    assert all(80 <= len(r.prompt_token_ids) <= 90 for r in found)
    lengths = [len(c) for r in found for c in r.completions]
    assert (min(lengths), max(lengths)) == (5, 9)
    assert found == scoring_requests(encoder, 8, 3, (80, 90), (5, 9))
    assert all(len(set(r.completions)) == 3 for r in found)
