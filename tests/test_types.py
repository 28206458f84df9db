"""Records hold what they are given and refuse what contradicts itself."""

import dataclasses

import numpy as np
import pytest

from cream.errors import CreamError, TallyError
from cream.types import (
    Completion,
    FinishReason,
    Message,
    PairTable,
    Prompt,
    SamplingRequest,
    ScoringRequest,
    Tally,
)


def test_a_tally_adds_up():
    assert Tally(3, {"paired": 2, "tied": 1, "single": 0}).parts["paired"] == 2
    assert Tally(0, {}).total == 0


@pytest.mark.parametrize(
    ("total", "parts"), [(3, {"a": 2}), (1, {"a": 2}), (1, {}), (1, {"a": 2, "b": -1})]
)
def test_a_tally_that_does_not_add_up_is_a_bug_and_says_so(total: int, parts: dict[str, int]):
    with pytest.raises(TallyError, match=f"total {total}"):
        Tally(total, parts)


def test_the_length_of_a_pair_table_is_its_number_of_pairs():
    two = np.array(["a", "b"], dtype=object)
    values = np.zeros(2)

    assert len(PairTable(two, two, two, values, values, values, values)) == 2


def test_records_cannot_be_changed():
    prompt = Prompt("p", (Message("user", "hi"),))
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt.answer = "cheat"  # type: ignore[misc]


def test_a_prompt_knows_no_answer_unless_it_is_given_one():
    prompt = Prompt("p", (Message("user", "hi"),))

    assert prompt.answer is None
    assert dict(prompt.metadata) == {}
    completion = Completion("p", "p-0", (1,), "x", FinishReason.STOP, 0)
    assert completion.sampling_logp is None
    assert completion.origin == "policy"


def test_finish_reasons_are_the_words_that_stand_in_files():
    assert [str(reason) for reason in FinishReason] == ["stop", "length"]


def test_every_error_made_on_purpose_is_a_cream_error_with_an_exit_code():
    import cream.errors as errors

    kinds = [
        kind
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]

    assert len(kinds) > 5
    assert all(issubclass(kind, CreamError) for kind in kinds)
    users_fault = {k.__name__ for k in kinds if issubclass(k, CreamError) and k.exit_code == 2}
    assert users_fault == {"RecipeError", "DataError", "ModelError", "RunError", "DependencyError"}


def test_requests_answer_to_the_first_name_of_their_tokens():
    """Scripts outside read `prompt_ids`; both names are one tuple."""
    scoring = ScoringRequest("p", (1, 2), ((3,),))
    sampling = SamplingRequest("p", (4,), (0,))

    assert scoring.prompt_ids == scoring.prompt_token_ids == (1, 2)
    assert sampling.prompt_ids == sampling.prompt_token_ids == (4,)
