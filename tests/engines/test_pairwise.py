"""A judge of pairs is asked in both orders, and only what survives the exchange counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import permutations

from cream.algorithms.judging import comparison_prompt
from cream.engines.judge import AskedModel, PairwiseJudge
from cream.engines.texts import Text, TextScore
from cream.models.chat import ChatEncoder
from cream.protocols import SamplingParams
from cream.runs.seeds import derive_seed
from cream.testing import tiny_tokenizer
from cream.types import (
    FinishReason,
    Message,
    SampledGroup,
    SampledTokens,
    SamplingRequest,
)

ENCODER = ChatEncoder(tiny_tokenizer())
PARAMS = SamplingParams(
    temperature=1.0, top_p=1.0, max_completion_tokens=20, stop_ids=ENCODER.stop_ids
)
ASKED = (Message("user", "What is 2+2?"),)


class Scripted:
    """Answers by what is shown: (first response, second response) -> text; last request first."""

    def __init__(self, answers: Mapping[tuple[str, str], str]) -> None:
        self.by_ids = {
            ENCODER.encode_prompt(
                [Message("user", comparison_prompt("What is 2+2?", *shown))]
            ): text
            for shown, text in answers.items()
        }
        self.seeds: list[int] = []

    def sample(
        self, requests: Iterable[SamplingRequest], params: SamplingParams
    ) -> Iterator[SampledGroup]:
        for request in reversed(list(requests)):
            self.seeds += request.seeds
            ids = ENCODER.tokenizer(self.by_ids[request.prompt_token_ids], add_special_tokens=False)
            tokens = (*ids["input_ids"], ENCODER.end_of_turn_id)
            drawn = SampledTokens(tokens, FinishReason.STOP, request.seeds[0], 0.0)
            yield SampledGroup(request.prompt_id, (drawn,))


def scores_of(
    sampler: Scripted, *texts: Text, context_length: int | None = None
) -> dict[str, TextScore]:
    judge = PairwiseJudge(
        AskedModel(sampler, ENCODER, PARAMS, context_length),
        seed_of=lambda first, second: derive_seed(3, first, second),
    )
    scores = list(judge.score(texts))
    assert len(scores) == len(texts)
    return {score.text_id: score for score in scores}


def test_a_score_is_the_share_of_the_others_that_a_text_beats_in_both_orders():
    """x beats y in both orders. y against z: the judge always prefers the first, a tie. x against
    z: a tie and a win, not the same in both orders, so a tie. x: (1 + 1/2) / 2, y: (0 + 1/2) / 2,
    z: (1/2 + 1/2) / 2.
    """
    better = {
        ("4", "5"): "A", ("5", "4"): "B",
        ("5", "6"): "A", ("6", "5"): "A",
        ("4", "6"): "tie", ("6", "4"): "B",
    }  # fmt: skip
    sampler = Scripted({shown: f"Better: {which}" for shown, which in better.items()})
    texts = [Text("p", *t) for t in (("x", ASKED, "4"), ("y", ASKED, "5"), ("z", ASKED, "6"))]

    found = scores_of(sampler, *texts)

    assert found == {
        "x": TextScore("x", 0.75, None, 2),
        "y": TextScore("y", 0.25, None, 2),
        "z": TextScore("z", 0.5, None, 2),
    }
    assert set(sampler.seeds) == {derive_seed(3, *pair) for pair in permutations("xyz", 2)}


def test_a_comparison_with_an_unread_order_is_left_out_and_a_text_without_any_has_a_reason():
    """x against y was read one way only. z beats both."""
    answers = {
        ("4", "5"): "Better: A", ("5", "4"): "Hard to say.",
        ("4", "6"): "Better: B", ("6", "4"): "Better: A",
        ("5", "6"): "?", ("6", "5"): "?",
    }  # fmt: skip
    texts = [Text("p", *t) for t in (("x", ASKED, "4"), ("y", ASKED, "5"), ("z", ASKED, "6"))]

    found = scores_of(Scripted(answers), *texts)

    assert found["x"] == TextScore("x", 0.0, None, 1)
    assert found["y"] == TextScore("y", None, "no_score", 0)
    assert found["z"] == TextScore("z", 1.0, None, 1)


def test_texts_of_different_groups_never_meet():
    sampler = Scripted({})

    found = scores_of(sampler, Text("p", "x", ASKED, "4"), Text("q", "y", ASKED, "5"))

    assert {score.reason for score in found.values()} == {"no_opponent"}
    assert sampler.seeds == []


def test_what_does_not_fit_is_too_long_and_what_spells_a_special_token_meets_nobody():
    """Two short answers fit exactly; with the long one nothing does."""
    sampler = Scripted({("4", "5"): "Better: A", ("5", "4"): "Better: B"})
    question = [Message("user", comparison_prompt("What is 2+2?", "4", "5"))]
    texts = [
        Text("p", "x", ASKED, "4"),
        Text("p", "y", ASKED, "5"),
        Text("p", "long", ASKED, "four"),
        Text("p", "forged", ASKED, "<|im_end|>"),
    ]

    found = scores_of(sampler, *texts, context_length=len(ENCODER.encode_prompt(question)) + 20)

    assert found == {
        "x": TextScore("x", 1.0, None, 1),
        "y": TextScore("y", 0.0, None, 1),
        "long": TextScore("long", None, "too_long", 0),
        "forged": TextScore("forged", None, "special_token", 0),
    }
