"""Verdicts of one letter: what two orders say, and who gets which share."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
import pytest

from cream.engines.scorer import TorchScorer
from cream.engines.texts import Text
from cream.engines.verdict import VerdictJudge, verdict_of
from cream.models.chat import ChatEncoder
from cream.testing import CountingModel, tiny_tokenizer
from cream.types import Message, ScoredGroup, ScoringRequest

ENCODER = ChatEncoder(tiny_tokenizer())
ASKED = (Message("user", "?"),)


class Likes:
    """Prefers by a table of worths, likes what stands first, and gives the letters some mass."""

    def __init__(self, worth: dict[str, float], *, place: float = 0.0, mass: float = 1.0) -> None:
        self.worth, self.place, self.mass = worth, place, mass
        self.asked: list[str] = []

    def score(self, requests: Iterable[ScoringRequest]) -> Iterator[ScoredGroup]:
        for request in list(requests)[::-1]:  # the order must not matter
            text = ENCODER.decode(request.prompt_token_ids)
            self.asked.append(text)
            first, second = text.split("Response A:\n")[1].split("\n\nResponse B:\n")
            d = self.worth[first] - self.worth[second.split("assistant")[0].strip()] + self.place
            p = 1 / (1 + math.exp(-d))
            logps = [math.log(self.mass * p), math.log(self.mass * (1 - p))]
            arrays = tuple(
                np.array([value, *[0.0] * (len(ids) - 1)], dtype=np.float32)
                for value, ids in zip(logps, request.completions, strict=True)
            )
            yield ScoredGroup(request.prompt_id, arrays)


def judge(likes: Likes, **options: object) -> VerdictJudge:
    given = {"context_length": None, "label_mass": 0.5, "temperature": 1.0, **options}
    return VerdictJudge(likes, ENCODER, **given)  # type: ignore[arg-type]


def texts(*said: str) -> list[Text]:
    return [Text("g", f"t{i}", ASKED, one) for i, one in enumerate(said)]


def test_two_orders_part_preference_and_place():
    """d12 = 1.5, d21 = 0.3: b = 0.6, c = 0.9; both orders name the first place."""
    found = verdict_of((math.log(0.8), math.log(0.8) - 1.5), (-3.0, -3.3))
    assert found.preference == pytest.approx(0.6)
    assert found.position_bias == pytest.approx(0.9)
    assert found.turned
    assert found.label_mass == pytest.approx(math.exp(-3.0) + math.exp(-3.3))


def test_a_place_that_is_liked_changes_no_score_and_is_told():
    worth = {"good": 1.0, "bad": -1.0, "middling": 0.0}
    plain = {s.text_id: s for s in judge(Likes(worth)).score(texts(*worth))}
    biased = {s.text_id: s for s in judge(Likes(worth, place=2.5)).score(texts(*worth))}

    for key, score in plain.items():
        assert biased[key].value == pytest.approx(score.value, abs=1e-5)
        assert biased[key].details["position_bias"] == pytest.approx(2.5, abs=1e-4)
        assert score.details["position_bias"] == pytest.approx(0.0, abs=1e-4)
    share = (1 / (1 + math.exp(-2)) + 1 / (1 + math.exp(-1))) / 2
    assert plain["t0"].value == pytest.approx(share, abs=1e-5)
    assert plain["t0"].count == 2
    assert plain["t2"].value == pytest.approx(0.5, abs=1e-5)
    assert biased["t0"].details["turned"] == 1.0
    assert plain["t0"].details["turned"] == 0.0


def test_letters_without_mass_are_no_verdict_and_the_mass_is_told():
    (first, _) = judge(Likes({"a": 1.0, "b": 0.0}, mass=0.3)).score(texts("a", "b"))
    assert (first.value, first.reason) == (None, "label_mass")
    assert first.details["label_mass"] == pytest.approx(0.3, abs=1e-5)


def test_texts_that_cannot_be_asked_say_why():
    likes = Likes({"a": 0.0, "b": 0.0})
    (alone,) = judge(likes).score(texts("a"))
    assert alone.reason == "no_opponent"
    (long, _) = judge(likes, context_length=20).score(texts("a", "b"))
    assert long.reason == "too_long"
    spelled, alone = judge(likes).score(texts("a<|im_end|>", "b"))
    assert (spelled.reason, alone.reason) == ("special_token", "no_opponent")
    assert not likes.asked


def test_a_model_that_is_surprised_alike_by_both_letters_has_no_preference():
    """`CountingModel` knows no letter from another: d = 0 whatever the order."""
    scorer = TorchScorer(CountingModel(259).eval())
    for score in judge(scorer, label_mass=0.0).score(texts("a", "b", "c")):  # type: ignore[arg-type]
        assert score.value == pytest.approx(0.5, abs=1e-5)
        assert score.details["position_bias"] == pytest.approx(0.0, abs=1e-5)
