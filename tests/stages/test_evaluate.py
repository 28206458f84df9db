"""Every test prompt is answered once greedily and k times at random, and every answer verified."""

from collections.abc import Iterable, Iterator

import pytest

from cream.protocols import SamplingParams
from cream.stages.evaluate import EvaluationRow, evaluate
from cream.testing import ScriptedSampler
from cream.types import (
    EncodedPrompt,
    Message,
    Prompt,
    SampledGroup,
    SamplingRequest,
    Verdict,
)

PARAMS = SamplingParams(temperature=0.7, top_p=0.9, max_completion_tokens=3, stop_ids=(0,))
GREEDY = {"p": [[1, 0]], "q": [[2, 2, 2]]}
DRAWN = {"p": [[1, 0], [3, 0]], "q": [[4, 0], [2, 0]]}


class TwoScripts:
    """Scripted answers, other ones at temperature 0; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[SamplingParams, list[SamplingRequest]]] = []

    def sample(
        self, requests: Iterable[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        asked = list(requests)
        self.asked.append((params, asked))
        script = GREEDY if params.temperature == 0 else DRAWN
        return ScriptedSampler(script).sample(asked, params)


class Equal:
    def verify(self, prompt: Prompt, completion: str) -> Verdict | None:
        if prompt.answer is None:
            return None
        return Verdict(completion == prompt.answer, 0.25, completion[:1] or None)


def prompt(name: str, answer: str | None) -> EncodedPrompt:
    message = Message("user", name)
    return EncodedPrompt(Prompt(name, (message,), task=f"task {name}", answer=answer), (9,))


PROMPTS = [prompt("p", "10"), prompt("q", "20")]


def run(sampler: TwoScripts, prompts: list[EncodedPrompt], num_samples: int) -> list[EvaluationRow]:
    return list(
        evaluate(
            prompts,
            sampler,
            Equal(),
            PARAMS,
            num_samples=num_samples,
            seed_of=lambda prompt_id, k: 10 * ord(prompt_id) + k,
            decode=lambda ids: "".join(map(str, ids)),
        )
    )


def test_one_greedy_row_and_k_samples_per_prompt():
    rows = run(TwoScripts(), PROMPTS, 2)

    assert [(r.prompt_id, r.index, r.text, r.correct) for r in rows] == [
        ("p", -1, "10", True),
        ("q", -1, "222", False),
        ("p", 0, "10", True),
        ("p", 1, "30", False),
        ("q", 0, "40", False),
        ("q", 1, "20", True),
    ]
    assert rows[1] == EvaluationRow("q", "task q", -1, "222", "length", 3, False, 0.25, "2")


def test_the_greedy_pass_has_temperature_0_and_the_whole_vocabulary_and_the_same_limits():
    sampler = TwoScripts()
    run(sampler, PROMPTS, 2)
    (greedy, asked_once), (drawn, asked_twice) = sampler.asked

    assert greedy == SamplingParams(
        temperature=0.0, top_p=1.0, max_completion_tokens=3, stop_ids=(0,)
    )
    assert drawn == PARAMS
    assert [len(request.seeds) for request in asked_once] == [1, 1]
    assert [request.seeds for request in asked_twice] == [(1120, 1121), (1130, 1131)]


def test_without_samples_only_the_greedy_pass_runs():
    sampler = TwoScripts()

    assert [row.index for row in run(sampler, PROMPTS, 0)] == [-1, -1]
    assert len(sampler.asked) == 1


def test_a_prompt_that_cannot_be_verified_is_an_error_not_a_wrong_answer():
    with pytest.raises(ValueError, match="test prompt q has no reference answer"):
        run(TwoScripts(), [PROMPTS[0], prompt("q", None)], 0)
