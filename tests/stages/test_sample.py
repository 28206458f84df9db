"""Completions are joined to their prompts by id, in prompt order, with their own seeds."""

from collections.abc import Iterable, Iterator

import pytest

from cream.protocols import Sampler, SamplingParams
from cream.stages.sample import sample, with_data_completions
from cream.testing import ScriptedSampler
from cream.types import (
    EncodedPrompt,
    FinishReason,
    Message,
    Prompt,
    SampledGroup,
    SamplingRequest,
)

PARAMS = SamplingParams(temperature=1.0, top_p=1.0, max_completion_tokens=4, stop_ids=(0,))
SCRIPT = {"p": [[5, 0], [6, 7]], "q": [[8, 0], [9, 0]]}


def prompt(name: str) -> EncodedPrompt:
    return EncodedPrompt(Prompt(name, (Message("user", name),)), (1, ord(name)))


def decode(ids) -> str:
    return ",".join(map(str, ids))


def seed_of(prompt_id: str, k: int) -> int:
    return 100 * ord(prompt_id) + k


class Wrapped:
    """A sampler that answers as scripted and lets its answers be rearranged."""

    def __init__(self, rearrange) -> None:
        self.rearrange = rearrange
        self.asked: list[SamplingRequest] = []

    def sample(
        self, requests: Iterable[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        self.asked = list(requests)
        script = {**SCRIPT, "r": [[1, 0], [2, 0]]}
        answers = list(ScriptedSampler(script).sample(self.asked, params))
        return iter(self.rearrange(answers))


def draw(sampler: Sampler, *, names: str = "pq", n: int = 2):
    return list(
        sample(
            [prompt(name) for name in names],
            sampler,
            PARAMS,
            num_completions=n,
            seed_of=seed_of,
            decode=decode,
        )
    )


def test_completions_carry_ids_text_reason_and_seed():
    (first, second), _ = draw(ScriptedSampler(SCRIPT))

    assert first.token_ids == (5, 0)
    assert first.text == "5,0"
    assert first.finish_reason is FinishReason.STOP
    assert second.finish_reason is FinishReason.LENGTH
    assert (first.prompt_id, first.completion_id) == ("p", "p-0")
    assert second.completion_id == "p-1"
    assert [first.seed, second.seed] == [seed_of("p", 0), seed_of("p", 1)]
    assert first.origin == "policy"


def test_the_sampler_gets_the_prompts_own_ids_and_one_seed_per_completion():
    sampler = Wrapped(lambda answers: answers)
    draw(sampler)

    assert sampler.asked == [
        SamplingRequest("p", (1, ord("p")), (seed_of("p", 0), seed_of("p", 1))),
        SamplingRequest("q", (1, ord("q")), (seed_of("q", 0), seed_of("q", 1))),
    ]


def test_the_order_in_which_a_sampler_answers_does_not_matter():
    assert draw(Wrapped(lambda answers: answers[::-1])) == draw(ScriptedSampler(SCRIPT))


@pytest.mark.parametrize(
    ("rearrange", "message"),
    [
        (lambda answers: answers[:1], "left out 1 prompts, q among them"),
        (lambda answers: [*answers, answers[0]], "answered p twice or unasked"),
        (lambda answers: [answers[0], answers[0]], "answered p twice or unasked"),
        (
            lambda answers: [*answers, SampledGroup("z", answers[0].completions)],
            "answered z twice or unasked",
        ),
        (
            lambda answers: [SampledGroup("p", answers[0].completions[:1]), answers[1]],
            "gave 1 completions for p, asked 2",
        ),
    ],
)
def test_a_sampler_that_does_not_answer_what_was_asked_is_refused(rearrange, message: str):
    with pytest.raises(ValueError, match=message):
        draw(Wrapped(rearrange))


def test_a_prompt_given_twice_is_refused_rather_than_paired_with_itself():
    with pytest.raises(ValueError, match="answered p twice"):
        draw(ScriptedSampler(SCRIPT), names="pp")


def test_no_prompts_give_no_completions():
    assert draw(ScriptedSampler(SCRIPT), names="") == []


def test_what_the_data_answer_comes_first_in_its_group_and_was_not_sampled():
    """So that of equal completions the data's is the one that is kept."""
    (group,) = sample(
        [prompt("p")],
        ScriptedSampler(SCRIPT),
        PARAMS,
        num_completions=2,
        seed_of=seed_of,
        decode=decode,
    )
    joined = with_data_completions(group, ["a", "bc"], lambda text: (len(text), 0), decode)

    assert [c.completion_id for c in joined] == ["p-data-0", "p-data-1", "p-0", "p-1"]
    assert [c.token_ids for c in joined] == [(1, 0), (2, 0), (5, 0), (6, 7)]
    assert [c.origin for c in joined] == ["data", "data", "policy", "policy"]
    assert [c.sampling_logp is None for c in joined] == [True, True, False, False]
    assert {c.finish_reason for c in joined[:2]} == {FinishReason.STOP}
    assert [c.text for c in joined[:2]] == ["1,0", "2,0"]
