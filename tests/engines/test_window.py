import dataclasses
from typing import Any

import numpy as np
import pytest
import torch

from cream.algorithms.listwise import fitted_to_point_scale
from cream.engines.texts import Text, TextScore, Unscorable
from cream.engines.window import DETAILS, AnswerReader, HeadReader, WindowScorer
from cream.models.reranker import Heads
from cream.models.window_text import WindowEncoder
from cream.recipe.reranking import WindowConfig
from cream.testing import CHAT_TEMPLATE, tiny_model, tiny_tokenizer
from cream.types import Message

MODEL = tiny_model()
WORDS = [f"answer {k} " + "xyz"[k % 3] * (k % 5) for k in range(30)]


def encoder(config, *, trained) -> WindowEncoder:
    return WindowEncoder(tiny_tokenizer(), CHAT_TEMPLATE, config, trained=trained)


def heads(seed=1):
    made = Heads(64)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for parameter in made.parameters():
            torch.nn.init.normal_(parameter)
    return made


def scorer(*, trained=True, seed=0, **settings: Any) -> WindowScorer:
    config = WindowConfig(**{"size": 4, "max_candidate_tokens": 20, "scale": "none"} | settings)
    written = encoder(config, trained=trained)
    reader = HeadReader(heads()) if trained else AnswerReader(MODEL, written)
    return WindowScorer(MODEL, written, reader, config, seed=seed)


def texts(count, query="q", start=0):
    said = (Message("user", f"what about {query}?"),)
    return [Text(query, f"{query}-{k}", said, WORDS[k]) for k in range(start, start + count)]


def scored(scorer, given) -> dict[str, TextScore]:
    found = list(scorer.score(given))
    assert len({s.text_id for s in found}) == len(found)
    return {s.text_id: s for s in found}


def values(found, detail=None):
    pick = {i: s.value if detail is None else s.details[detail] for i, s in found.items()}
    return np.array([pick[i] for i in sorted(pick)], dtype=float)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("count", [2, 3, 5, 9, 25])
def test_every_text_has_one_score_whatever_their_number(trained, count):
    found = scored(scorer(trained=trained), texts(count))

    assert found.keys() == {f"q-{k}" for k in range(count)}
    assert all(s.value is not None and s.details.keys() == set(DETAILS) for s in found.values())
    sizes = np.unique(values(found, "window"), return_counts=True)[1]
    assert sizes.max() <= 4
    assert sizes.min() >= 2


@pytest.mark.parametrize("trained", [True, False])
def test_the_order_in_which_texts_come_changes_nothing(trained):
    given = [*texts(7), *texts(3, "other")]
    one = scored(scorer(trained=trained), given)
    other = scored(scorer(trained=trained), given[::-1])

    for key in ("pointwise", "window", "identifier", None):
        assert values(one, key) == pytest.approx(values(other, key), abs=1e-4)


def test_the_partition_leaves_the_point_view_and_moves_the_list_view():
    one, other = (scored(scorer(seed=seed), texts(9)) for seed in (0, 1))

    assert values(one, "pointwise") == pytest.approx(values(other, "pointwise"), abs=1e-4)
    assert not np.array_equal(values(one, "window"), values(other, "window"))
    assert np.abs(values(one) - values(other)).max() > 0.01


def test_one_window_of_all_is_the_window_alone():
    """w = N: one window; equal to scoring it with the width that fits exactly."""
    wide, exact = (scored(scorer(size=size), texts(5)) for size in (26, 5))

    assert values(wide) == pytest.approx(values(exact), abs=1e-4)
    assert set(values(wide, "window")) == {0}


@pytest.mark.parametrize("trained", [True, False])
def test_a_group_in_company_is_what_it_is_alone(trained):
    alone = scored(scorer(trained=trained, token_budget=1), texts(6))
    together = scored(scorer(trained=trained), [*texts(3, "other"), *texts(6), *texts(2, "third")])

    own = {i: s for i, s in together.items() if i.startswith("q-")}
    assert values(own) == pytest.approx(values(alone), abs=1e-3)


def test_trained_scores_are_linear_maps_of_the_states_of_each_sequence():
    """The point view restated: the model on prefix, candidate and end token, alone."""
    made = scorer()
    found = scored(made, texts(5))
    written = encoder(WindowConfig(max_candidate_tokens=20), trained=True)
    query = written.query("what about q?")
    for text in texts(5):
        ids, cut = written.candidate(text.response)
        alone = torch.tensor([[*query.prefix, *ids, 2]])
        state = MODEL.base_model(alone).last_hidden_state[0, -1]
        expected = heads().point(state).item()

        assert not cut
        assert found[text.text_id].details["pointwise"] == pytest.approx(expected, abs=1e-3)


def test_the_untrained_point_view_is_yes_against_no_after_the_candidate():
    found = scored(scorer(trained=False), texts(3))
    written = encoder(WindowConfig(max_candidate_tokens=20), trained=False)
    query = written.query("what about q?")
    yes, no = written.yes_no
    for text in texts(3):
        block = written.window(query, [written.candidate(text.response)[0]], [0]).blocks[0]
        alone = torch.tensor([[*query.prefix, *block.token_ids[: block.end + 1]]])
        logits = MODEL(alone).logits[0, -1]
        expected = (logits[yes] - logits[no]).item()

        assert found[text.text_id].details["pointwise"] == pytest.approx(expected, abs=1e-3)
        assert written.tokenizer.decode(alone[0]).endswith("Yes or No? Answer: ")


def test_an_untrained_window_without_content_has_list_scores_of_zero():
    """Every candidate is N/A, and so is the query: what letters get there is what is taken off."""
    given = [Text("N/A", f"t{k}", (Message("user", "N/A"),), "N/A") for k in range(2)]
    said = [dataclasses.replace(t, response="N/A" + " " * k) for k, t in enumerate(given)]
    config = WindowConfig(size=4, max_candidate_tokens=3, scale="none")  # cuts the spaces off
    written = encoder(config, trained=False)
    made = WindowScorer(MODEL, written, AnswerReader(MODEL, written), config, seed=0)

    assert values(scored(made, said)) == pytest.approx([0, 0], abs=1e-4)


def test_all_rotations_make_the_first_identifiers_matter_no_more():
    """Members that see each other under every identifier: the seed moves nothing any more."""
    one, other = (
        scored(scorer(seed=seed, rotations=4, cut="first_stage"), texts(4)) for seed in (0, 1)
    )
    single = [scored(scorer(seed=seed, cut="first_stage"), texts(4)) for seed in (0, 1)]

    spread = np.abs(values(one) - values(other)).max()
    assert not np.array_equal(values(one, "identifier"), values(other, "identifier"))
    assert spread < np.abs(values(single[0]) - values(single[1])).max()
    assert all(s.count == 4 for s in one.values())


def test_windows_cut_from_the_order_given_hold_neighbours():
    found = scored(scorer(cut="first_stage"), texts(8))

    assert [found[f"q-{k}"].details["window"] for k in range(8)] == [0, 0, 0, 0, 1, 1, 1, 1]


def test_scales_are_those_of_the_point_view_window_by_window():
    raw = scored(scorer(), texts(8))
    moved, fitted = (scored(scorer(scale=scale), texts(8)) for scale in ("offset", "affine"))
    windows = values(raw, "window")
    for w in set(windows):
        own = windows == w
        gap = values(moved)[own] - values(raw)[own]
        assert np.ptp(gap) == pytest.approx(0, abs=1e-6)
        assert values(moved)[own].mean() == pytest.approx(values(raw, "pointwise")[own].mean())
        expected = fitted_to_point_scale(values(raw)[own], values(raw, "pointwise")[own])
        assert values(fitted)[own] == pytest.approx(expected)


def test_the_view_that_ranks_can_be_the_point_view():
    found = scored(scorer(view="point"), texts(4))

    assert values(found).tolist() == values(found, "pointwise").tolist()


def test_equal_texts_are_scored_once_and_named_twice():
    twin = dataclasses.replace(texts(1)[0], text_id="twin")
    made = scorer()
    found = scored(made, [*texts(4), twin])
    plain = scorer()
    scored(plain, texts(4))

    assert found["twin"].value == found["q-0"].value
    assert found["twin"].details == found["q-0"].details
    assert made.tokens == plain.tokens


def test_what_has_no_score_has_a_reason_and_leaves_the_others_alone():
    special = Text("q", "bad", texts(1)[0].messages, "ends<|im_end|>")
    long = Text("long", "long-0", (Message("user", "x" * 600),), "a")
    found = scored(scorer(), [*texts(4), special, long, *texts(1, "single")])

    assert found["bad"].reason is Unscorable.SPELLS_SPECIAL
    assert found["long-0"].reason is Unscorable.TOO_LONG
    assert found["bad"].details == dict.fromkeys(DETAILS)
    single = found["single-0"]
    assert single.reason is Unscorable.NO_OPPONENT
    assert single.details["pointwise"] is not None
    assert single.details["within"] is None
    clean = scored(scorer(), texts(4))
    rest = {i: found[i] for i in clean}
    assert values(rest) == pytest.approx(values(clean), abs=1e-4)


def test_long_candidates_are_cut_and_say_so():
    said = [Text("q", f"t{k}", (Message("user", "q"),), "a" * (15 * k + 5)) for k in range(3)]
    found = scored(scorer(), said)

    assert [found[f"t{k}"].details["cut"] for k in range(3)] == [0.0, 0.0, 1.0]
    assert [found[f"t{k}"].details["tokens"] for k in range(3)] == [5.0, 20.0, 20.0]


def test_a_number_that_is_not_finite_is_no_score():
    made = scorer()
    with torch.no_grad():
        made._reader._heads.list.weight.fill_(float("nan"))  # type: ignore[attr-defined]
    found = scored(made, texts(2))

    assert {s.reason for s in found.values()} == {Unscorable.NOT_FINITE}
    assert all(s.details["pointwise"] is not None for s in found.values())


def test_braces_and_marks_of_a_query_are_said_as_they_are():
    said = (Message("user", "{query} {0} %s <<<candidates>>>"),)
    found = scored(scorer(), [Text("q", f"t{k}", said, f"{k} {{x}}") for k in range(2)])

    assert np.isfinite(values(found)).all()
