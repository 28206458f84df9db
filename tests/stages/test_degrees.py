"""Versions of a pair's answers as further sequences: labels, reasons, controls, figures."""

from __future__ import annotations

import pytest

from cream.algorithms.degree import role_of
from cream.algorithms.keyphrases import words_of
from cream.errors import DataError, ModelError, RunError
from cream.models.chat import ChatEncoder
from cream.recipe.degree import PreferenceDegree
from cream.records import ADDED
from cream.stages.additions import extend_pairs
from cream.stages.degrees import Degrees
from cream.testing import tiny_tokenizer
from cream.types import Added, Completion, FinishReason, Message, Prompt, RankedPair, TokenSequence

ENCODER = ChatEncoder(tiny_tokenizer())
ASKED = (Message("user", "Where?"),)
LONG = "The old bridge is of grey stone, a long way on the hill road."


def completion(key: str, text: str, finish: FinishReason = FinishReason.STOP) -> Completion:
    return Completion("p", key, ENCODER.encode_completion(ASKED, text), text, finish, 0)


def pair(chosen: str = LONG, rejected: str = LONG, key: str = "a") -> RankedPair:
    return RankedPair(
        f"{key}>b",
        Prompt("p", ASKED),
        ENCODER.encode_prompt(ASKED),
        completion(f"{key}1", chosen),
        completion(f"{key}2", rejected),
        *(1.0, 0.0, 0.75, 1.0, -9.0, -9.5),
    )


def texts(added: Added, side: str = "chosen") -> dict[int, str]:
    found = {k: added.sequences.get(role_of(side, k)) for k in range(4)}
    return {k: ENCODER.decode(s.token_ids) for k, s in found.items() if s is not None}


def degrees(**options: object) -> Degrees:
    return Degrees(PreferenceDegree.model_validate({"versions": "all", **options}), seed=1)


def test_degree_0_has_the_sampled_ids_and_every_version_ends_and_lacks_more():
    given = pair()
    added = degrees().add(given, ENCODER)
    found = texts(added)

    assert added.sequences["degree_chosen_0"].token_ids == given.chosen.token_ids
    assert found[0] == LONG
    kept = [{text[a:b] for a, b in words_of(text)} for text in found.values()]
    assert kept[0] > kept[1] > kept[2] > kept[3]
    assert all(
        s.token_ids[-1] == ENCODER.end_of_turn_id and s.reference_logps is None
        for s in added.sequences.values()
    )
    counts = [len(added.sequences[role_of("chosen", k)].token_ids) for k in range(4)]
    assert counts == sorted(counts, reverse=True)


def test_one_version_per_side_is_drawn_uniformly_from_a_name_and_not_from_the_order():
    one = degrees(versions="sampled")
    drawn = {f"{i}": one.add(pair(key=f"{i}"), ENCODER) for i in range(200)}
    again = degrees(versions="sampled")

    assert all(len(added.sequences) == 2 for added in drawn.values())
    for key in reversed(drawn):
        assert again.add(pair(key=key), ENCODER).sequences == drawn[key].sequences
    counts = [sum(role_of("chosen", k) in a.sequences for a in drawn.values()) for k in range(4)]
    assert sum(counts) == 200
    assert min(counts) >= 31  # 50 expected, standard deviation 6.1
    same = sum(len(texts(a).keys() & texts(a, "rejected").keys()) for a in drawn.values())
    assert 25 <= same <= 75  # sides are drawn apart


@pytest.mark.parametrize(
    ("chosen", "rejected", "options", "reason"),
    [
        ("The hill road.", LONG, {}, "too_few_phrases"),
        (LONG, "42", {}, "too_few_phrases"),
        (LONG, "42", {"sides": ["chosen"]}, None),
        ("big hill", "big hill", {"degrees": 2}, "empty"),
        ("big hill", "big hill", {"degrees": 2, "replace": "filler"}, None),
    ],
)
def test_a_pair_without_versions_says_why(chosen, rejected, options, reason):
    assert degrees(**options).add(pair(chosen, rejected), ENCODER).reason == reason


def test_an_answer_that_was_cut_off_has_no_state_at_its_end():
    given = pair()
    cut = Completion("p", "c", given.chosen.token_ids, LONG, FinishReason.LENGTH, 0)
    assert degrees().versions(given, cut, ENCODER) == "truncated"


def test_a_version_that_the_encoder_cannot_take_is_a_reason():
    class Refuses:
        encode_prompt = ENCODER.encode_prompt
        decode = ENCODER.decode

        def encode_completion(self, messages, text):
            raise ModelError("starts with white space")

    assert degrees().add(pair(), Refuses()).reason == "refused_text"


def test_a_filler_of_one_letter_keeps_the_count_of_words():
    found = texts(degrees(replace="filler", filler="x").add(pair(), ENCODER))
    assert {len(words_of(text)) for text in found.values()} == {len(words_of(LONG))}
    assert found[3].split().count("x") > found[1].split().count("x") >= 1


def test_random_removal_takes_as_many_words_nested_and_others():
    keys, drawn = (degrees(removal=how) for how in ("key_phrases", "random_words"))
    by_key, by_chance = texts(keys.add(pair(), ENCODER)), texts(drawn.add(pair(), ENCODER))

    def bag(text: str) -> list[str]:
        return sorted(text[a:b] for a, b in words_of(text))

    assert [len(bag(t)) for t in by_key.values()] == [len(bag(t)) for t in by_chance.values()]
    assert by_key[1] != by_chance[1]
    assert set(bag(by_chance[2])) <= set(bag(by_chance[1]))


def test_the_figures_show_what_the_length_tells_and_too_few_versions_stop_the_run():
    given = [pair(key=f"{i}") for i in range(4)]
    made = extend_pairs(given, [degrees()], ENCODER)
    assert made.tallies["degree"].parts == {ADDED: 4}
    assert made.figures["degree"] == {"length_only": 1.0, "chance": 0.25, "answers": 8}
    (first, *_) = made.examples
    assert first.sequences["chosen"] == TokenSequence(given[0].chosen.token_ids, -9.0)
    assert first.columns == {"consistency": 0.75}

    short = [pair("42", "43", key=f"{i}") for i in range(3)]
    with pytest.raises(RunError, match=r"versions could be made of 1 of 4 pairs"):
        extend_pairs([given[0], *short], [degrees()], ENCODER)
    some = extend_pairs([given[0], *short], [degrees(min_share=0.25)], ENCODER)
    assert some.tallies["degree"].parts == {ADDED: 1, "too_few_phrases": 3}


def test_two_options_that_add_the_same_sequence_are_refused():
    with pytest.raises(DataError, match="two options of the objective add degree_chosen_0"):
        extend_pairs([pair()], [degrees(), degrees()], ENCODER)
