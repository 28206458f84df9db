"""Who edits, which edits count, and what they touched."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from cream.data.verifiers import LastNumber, StatedNumber
from cream.errors import DataError, ModelError
from cream.protocols import SamplingParams, Verifier
from cream.recipe.editing import Editing, FileEditor, ModelEditor
from cream.stages.edit import (
    OUTCOMES,
    ByModel,
    Edit,
    Editor,
    PersonsEdit,
    Proposal,
    by_file,
    by_verifier,
    edit_all,
    edit_question,
    read_edits,
    tally,
)
from cream.types import Completion, FinishReason, Message, Prompt, SampledGroup, SampledTokens

END = 0
SUM = Prompt("p", (Message("user", "57 + 3, less 6?"),), answer="54")
WRONG = "57 + 3 = 61, 61 - 6 = 55. Answer: 55"


class Letters:
    """A token per character, and an end token."""

    def encode_prompt(self, messages: Sequence[Message]) -> tuple[int, ...]:
        return tuple(ord(c) for m in messages for c in m.content)

    def encode_completion(self, messages: Sequence[Message], text: str) -> tuple[int, ...]:
        if text.startswith(" "):
            raise ModelError("merges with the end of the prompt")
        return (*map(ord, text), END)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(i) for i in ids if i != END)


LETTERS = Letters()


def said(text: str, k: int = 0, *, whole: bool = True) -> Completion:
    ids = tuple(map(ord, text)) + ((END,) if whole else ())
    reason = FinishReason.STOP if whole else FinishReason.LENGTH
    return Completion("p", f"p-{k}", ids, text, reason, seed=k)


def edited(
    texts: Sequence[Completion],
    editor: Editor | None = None,
    verifier: Verifier | None = None,
    settings: Editing | None = None,
    prompt: Prompt = SUM,
) -> list[Edit]:
    verifier = verifier or StatedNumber()
    editor = editor or by_verifier(verifier)
    return edit_all(texts, {"p": prompt}, editor, verifier, settings or Editing(), LETTERS)


def proposing(text: str) -> Editor:
    return lambda asked: {c.completion_id: Proposal(text) for _, c in asked}


def test_the_verifier_puts_its_answer_where_it_found_another_one():
    """The last 55 is what is stated; the one before it stays, and so does the wrong 61."""
    (edit,) = edited([said(WRONG)])
    assert edit.edited is not None
    assert edit.edited.text == "57 + 3 = 61, 61 - 6 = 55. Answer: 54"
    assert edit.edited.token_ids[-1] == END
    assert (edit.edited.completion_id, edit.edited.origin) == ("p-0-edited", "edited")
    where = WRONG.rindex("5")
    assert [tuple(span) for span in edit.spans] == [(where, where + 1, where, where + 1)]
    assert [k for k, mark in enumerate(edit.replaced) if mark] == [where]
    assert [k for k, mark in enumerate(edit.new) if mark] == [where]


def test_of_several_places_that_one_is_taken_with_which_the_text_is_right():
    """ "5" stands twice in "5 is not 15 but 5 (5)"; the last number decides."""
    (edit,) = edited([said("7 and 15 and 5")], verifier=LastNumber())
    assert edit.edited is not None
    assert edit.edited.text == "7 and 15 and 54"


def test_a_number_is_found_as_it_was_written():
    """1,234 is extracted as 1234, which the text does not hold."""
    (edit,) = edited([said("It is 1,234")], verifier=LastNumber())
    assert edit.edited is not None
    assert edit.edited.text == "It is 54"


def test_a_worked_reference_gives_its_result_only():
    prompt = Prompt("p", SUM.messages, answer="57 + 3 = 60, 60 - 6 = 54. #### 54")
    (edit,) = edited([said("It is 55")], verifier=LastNumber(), prompt=prompt)
    assert edit.edited is not None
    assert edit.edited.text == "It is 54"


def test_what_became_of_every_completion_is_counted():
    texts = [
        said("Answer: 54", 0),
        said(WRONG, 1),
        said(WRONG, 2),
        said("Answer: 5", 3, whole=False),
        said("I do not know", 4),
        said("Answer: 9", 5),
    ]
    edits = edited(texts, settings=Editing(max_share=0.2))
    outcomes = [edit.outcome for edit in edits]
    assert outcomes == ["right", "accepted", "duplicate", "truncated", "no_edit", "accepted"]
    counted = tally(outcomes)
    assert counted.total == 6
    assert list(counted.parts) == list(OUTCOMES)
    assert edited([said("Answer: 9")], settings=Editing(max_share=0.1))[0].outcome == "rewrite"


def test_a_rewrite_is_told_from_an_edit_by_the_share_of_touched_tokens_of_both():
    """ "is 9" to "is 54": one of 5 tokens and two of 6, end tokens included: 3 / 11 = .273."""
    for most, outcome in ((0.28, "accepted"), (0.27, "rewrite")):
        settings = Editing(max_share=most)
        (edit,) = edited([said("is 9")], verifier=LastNumber(), settings=settings)
        assert edit.outcome == outcome


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        (WRONG, "no_edit"),
        ("57 + 3 = 61, 61 - 6 = 55. Answer: 56", "not_better"),
        (" Answer: 54", "unencodable"),
        ("57 + 3 = 60, 60 - 6 = 54. Answer: 54", "accepted"),
    ],
)
def test_a_proposal_counts_if_it_is_another_text_that_is_right(text: str, outcome: str):
    assert edited([said(WRONG)], proposing(text))[0].outcome == outcome


def test_without_a_reference_answer_only_a_person_is_believed():
    prompt = Prompt("p", SUM.messages)
    assert edited([said(WRONG)], prompt=prompt)[0].outcome == "unverified"
    rows = {"p-0": PersonsEdit(WRONG, WRONG.replace("61", "60"))}
    person = Editing(editor=FileEditor(path="edits.jsonl"))
    (edit,) = edited([said(WRONG)], by_file(rows), prompt=prompt, settings=person)
    assert edit.outcome == "accepted"
    assert sum(edit.replaced) == sum(edit.new) == 2


def test_a_person_may_leave_a_completion_alone_and_may_have_edited_another_text():
    person = Editing(editor=FileEditor(path="edits.jsonl"))
    rows = {"p-0": PersonsEdit(WRONG, None), "p-1": PersonsEdit("another", "Answer: 54")}
    texts = [said(WRONG, 0), said("Answer: 55", 1), said("Answer: 56", 2)]
    edits = edited(texts, by_file(rows), settings=person)
    assert [edit.outcome for edit in edits] == ["no_edit", "stale", "no_edit"]


class Corrects:
    """A sampler that answers every question with one text, cut off or not."""

    def __init__(self, text: str, *, whole: bool = True) -> None:
        self.text, self.whole = text, whole
        self.asked: list[str] = []

    def sample(self, requests, params):
        for request in requests:
            self.asked.append(LETTERS.decode(request.prompt_token_ids))
            ids = tuple(map(ord, self.text)) + ((END,) if self.whole else ())
            reason = FinishReason.STOP if self.whole else FinishReason.LENGTH
            drawn = SampledTokens(ids, reason, 0, 0.0)
            yield SampledGroup(request.prompt_id, (drawn,))


def asking(sampler: Corrects, context: int | None = None) -> ByModel:
    return ByModel(sampler, LETTERS, SamplingParams(1.0, 1.0, 64, (END,)), context)


def test_a_model_is_shown_message_and_response_and_not_the_answer():
    sampler = Corrects(" Answer: 54\n")
    editor = asking(sampler)
    (edit,) = edited([said("Answer: 55")], editor, settings=Editing(editor=ModelEditor()))
    assert edit.edited is not None
    assert edit.edited.text == "Answer: 54"
    assert sampler.asked == [edit_question(SUM.messages, "Answer: 55")[0].content]
    assert "54" not in sampler.asked[0]
    assert editor.tokens == len(" Answer: 54\n") + 1


def test_what_a_model_does_not_finish_or_cannot_read_is_no_edit():
    cut = asking(Corrects("Answer: 54", whole=False))
    assert edited([said("Answer: 55")], cut)[0].outcome == "truncated"
    narrow = asking(Corrects("Answer: 54"), context=100)
    assert edited([said("Answer: 55")], narrow)[0].outcome == "too_long"
    assert narrow.tokens == 0


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"completion_id": 1, "original": "a", "edited": "b"}, "is no edit"),
        ({"completion_id": "p", "original": "a", "edited": 3}, "is no edit"),
        ({"original": "a", "edited": "b"}, "is no edit"),
    ],
)
def test_a_row_that_is_no_edit_is_named_with_its_place(values: dict[str, object], message: str):
    with pytest.raises(DataError, match=f"edits.jsonl line 3 {message}"):
        read_edits([(values, "edits.jsonl line 3")])


def test_a_completion_is_edited_once():
    row = {"completion_id": "p-0", "original": "a", "edited": "b"}
    with pytest.raises(DataError, match="line 2 edits completion p-0 a second time"):
        read_edits([(row, "line 1"), (row, "line 2")])
